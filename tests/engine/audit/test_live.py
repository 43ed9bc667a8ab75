"""`orchestrator audit --live` as CI and operators run it: real containers, inspected by the engine."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator

FIXTURES = TESTS / "fixtures" / "plugins"
PLUGINS = ("echo", "tool-raises", "model-missing")

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    """One plugin that has worked, one that has failed, one that never started; and a folder with a broken manifest."""
    folder = tmp_path_factory.mktemp("plugins")
    for name in PLUGINS:
        (folder / name).symlink_to(FIXTURES / name)
    (folder / "broken").mkdir()
    (folder / "broken" / "plugin.yaml").write_text("version: [")
    with live_orchestrator([folder], default_cpus="1.5") as orchestrator:
        orchestrator.wait_ready(300)
        assert orchestrator.run("echo", "echo", {"text": "hello"}).status_code == 200
        assert orchestrator.run("tool-raises", "run").status_code == 502
        yield orchestrator


@pytest.fixture
def container(live: LiveOrchestrator) -> Container:
    (running,) = [each for each in live.containers() if each.labels["plugin-orchestrator.plugin"] == "echo"]
    return running


def audited(live: LiveOrchestrator) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and the errors of the running orchestrator; the folders' are tested elsewhere."""
    done = subprocess.run(
        [live.python, "-m", "orchestrator", "audit", "--live", "--json"],
        env=live.environment | {"ORCHESTRATOR_URL": str(live.client.base_url)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)["findings"]
    checks = {(each["subject"], each["check"]) for each in findings}
    assert {("echo", "isolation"), ("tool-raises", "state"), ("orchestrator", "orphans")} <= checks
    live_checks = {"statuses", "fields", "state", "agreement", "isolation", "orphans", "reachable"}
    return done.returncode, [each for each in findings if each["level"] == "error" and each["check"] in live_checks]


def test_a_sound_orchestrator_has_no_errors(live: LiveOrchestrator) -> None:
    """Whatever state its plugins are in."""
    assert {health["state"] for health in live.client.get("/v1/plugins").json()} == {"RUNNING", "FAILED", "UNAVAILABLE"}
    assert audited(live)[1] == []


def test_a_container_whose_limits_are_not_what_the_api_claims_is_found(
    live: LiveOrchestrator, container: Container
) -> None:
    """Each limit by itself; changed behind the orchestrator's back, as `docker update` does."""
    changes = {"Memory": 1 << 30, "MemorySwap": 1 << 30, "PidsLimit": 4096, "NanoCpus": 1_000_000_000}
    before = {field: container.attrs["HostConfig"][field] for field in (*changes, "RestartPolicy")}
    update(container, {**changes, "RestartPolicy": {"Name": "always"}})
    try:
        code, errors = audited(live)
    finally:
        update(container, before)
    assert (code, [(each["subject"], each["check"]) for each in errors]) == (1, [("echo", "isolation")] * 5)
    assert [each["sentence"] for each in errors] == [
        "The engine limits its memory to 1073741824, the API claims 134217728.",
        "The engine limits its memory and swap together to 1073741824, the API claims 134217728.",
        "The engine limits its pids to 4096, the API claims 128.",
        "The engine limits its cpus to 1.0, the API claims 1.5.",
        "The engine restarts it automatically.",
    ]


def update(container: Container, fields: Mapping[str, Any]) -> None:
    """By the engine's API: the SDK's own `update` knows neither pids nor fractions of CPUs."""
    api = container.client.api if container.client else docker.APIClient()
    answer = api._post_json(api._url("/containers/{0}/update", container.id), data=dict(fields))
    if answer.status_code == 404:
        pytest.skip("this engine changes no existing container (Podman before 5)")
    answer.raise_for_status()


def test_an_orphaned_container_is_found(live: LiveOrchestrator, container: Container) -> None:
    """One with the labels of a living instance is not removed by the orchestrator; only the audit reports it."""
    engine = docker.from_env()
    name = f"{container.name}-again"
    stray = engine.containers.create(container.image, name=name, labels=container.labels, network_mode="none")
    try:
        code, errors = audited(live)
        assert (code, [each["check"] for each in errors]) == (1, ["orphans"])
        assert f"docker rm --force {name}" in errors[0]["sentence"]
    finally:
        stray.remove(force=True, v=True)
        engine.close()


def test_an_orchestrator_that_does_not_answer_is_an_error(live: LiveOrchestrator) -> None:
    """No findings would otherwise mean a pass."""
    done = subprocess.run(
        [live.python, "-m", "orchestrator", "audit", "--live"],
        env=live.environment | {"ORCHESTRATOR_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "does not answer" in done.stdout
