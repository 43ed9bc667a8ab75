"""A restart of a plugin that serves, over a real engine: no call fails before all for a new instance is there."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.checkout import PROJECT
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

FIXTURES = PROJECT / "tests" / "fixtures"
SLOW_BACKEND = """
import time

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    time.sleep(600)
"""


def manifest(folder: Path, addition: str) -> None:
    with (folder / "plugin.yaml").open("a") as file:
        file.write(addition)


def unbuildable(folder: Path) -> None:
    """A requirement that the image's own pip refuses."""
    (folder / "vendor").mkdir()
    (folder / "vendor" / "broken-1-py3-none-any.whl").write_bytes(b"this is no wheel")
    (folder / "requirements.txt").write_text("./vendor/broken-1-py3-none-any.whl\n")


def slowly_built(folder: Path) -> None:
    """A requirement that takes ten minutes to build, without any network."""
    (folder / "vendor" / "slow").mkdir(parents=True)
    (folder / "vendor" / "slow" / "backend.py").write_text(SLOW_BACKEND)
    (folder / "vendor" / "slow" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n\n'
        '[project]\nname = "slow"\nversion = "1"\n'
    )
    (folder / "requirements.txt").write_text("./vendor/slow\n")


def mistyped(folder: Path) -> None:
    """A module that the entrypoint imports, with a fault that only compiling finds."""
    (folder / "echo" / "words.py").write_text("def shout(text:\n    return text.upper()\n")
    with (folder / "echo" / "plugin.py").open("a") as file:
        file.write("\nfrom echo.words import shout\n")


FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "an unknown field": (lambda folder: manifest(folder, "requires_gpus: true\n"), "MANIFEST_INVALID", "requires_gpus"),
    "a model that is missing": (lambda folder: manifest(folder, "models: {w: w.pt}\n"), "MODEL_MISSING", "w.pt"),
    "a secret that is missing": (lambda folder: manifest(folder, "secrets: [TOKEN]\n"), "SECRET_MISSING", "TOKEN"),
    "code that does not compile": (mistyped, "BUILD_FAILED", "echo/words.py, line 1: "),
    "a requirement that cannot be built": (unbuildable, "BUILD_FAILED", "broken-1-py3-none-any.whl"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the plugin `echo`, alone, with time for a loaded machine."""
    folder = tmp_path / "plugins" / "echo"
    shutil.copytree(FIXTURES / "plugins" / "echo", folder)
    content = (folder / "plugin.yaml").read_text()
    content = content.replace("timeout: 2s", "timeout: 60s").replace("startup_timeout: 20s", "startup_timeout: 120s")
    (folder / "plugin.yaml").write_text(content)
    return folder


@contextmanager
def calls_without_pause(live: LiveOrchestrator) -> Iterator[list[int]]:
    """The statuses of calls, one after the other for as long as the block runs, and one more."""
    statuses: list[int] = []
    stopped = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=live.client.base_url, timeout=60, trust_env=False) as client:
            while not stopped.is_set():
                answer = client.post("/v1/plugins/echo/tools/echo/run", json={"text": "hello"})
                statuses.append(answer.status_code)
                time.sleep(0.02)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield statuses
    finally:
        stopped.set()
        caller.join()


@pytest.mark.slow
def test_what_is_broken_before_the_stop_costs_no_call(folder: Path) -> None:
    """Each fault in turn, on the same instance; once the folder is mended it restarts."""
    whole = folder.parent.parent / "whole"
    shutil.copytree(folder, whole)
    with live_orchestrator([folder.parent]) as live:
        live.wait_ready(600)
        assert live.run("echo", "echo", {"text": "hello"}).status_code == 200
        (container,) = live.containers()
        with calls_without_pause(live) as statuses:
            for fault, (break_it, code, phrase) in FAULTS.items():
                break_it(folder)
                answer = live.client.post("/v1/plugins/echo/restart", params={"wait": 300}, timeout=330)
                assert (answer.status_code, answer.json()["reason_code"]) == (409, code), fault
                health = live.health("echo")
                assert (health["state"], health["restart"]["reason_code"]) == ("RUNNING", code), fault
                assert phrase in health["restart"]["reason"], fault
                shutil.rmtree(folder)
                shutil.copytree(whole, folder)
        assert len(statuses) > len(FAULTS)
        assert set(statuses) == {200}
        assert [each.id for each in live.containers()] == [container.id]
        printed = live.client.get("/v1/plugins/echo/logs", params={"build": True}).text
        assert "broken-1-py3-none-any.whl" in printed
        assert live.restart("echo")["generation"] == 2
        assert live.run("echo", "echo", {"text": "hello"}).status_code == 200


@pytest.mark.slow
def test_an_orchestrator_killed_during_the_build_leaves_the_instance_to_the_next(folder: Path) -> None:
    """Health tells of the build; the next orchestrator adopts the container, and makes the restart anew."""
    with live_orchestrator([folder.parent]) as live:
        live.wait_ready(600)
        (container,) = live.containers()
        slowly_built(folder)
        answer = live.client.post("/v1/plugins/echo/restart", params={"wait": 0})
        assert answer.status_code == 202
        _until_building(live)
        assert live.run("echo", "echo", {"text": "hello"}).status_code == 200
        live.kill()
        live.start()
        live.wait_until_serving()
        health = _until_building(live)
        assert (health["state"] in {"INITIALIZED", "RUNNING"}, health["generation"]) == (True, 1)
        assert live.run("echo", "echo", {"text": "hello"}).status_code == 200
        assert [each.id for each in live.containers()] == [container.id]
        # Newer files take the place of those whose build goes on.
        shutil.rmtree(folder / "vendor")
        (folder / "requirements.txt").unlink()
        assert live.restart("echo", wait=300)["generation"] == 2


def _until_building(live: LiveOrchestrator) -> dict[str, object]:
    """The plugin's health once pip builds the slow requirement."""
    end = time.monotonic() + 300
    while True:
        health = live.health("echo")
        printed = live.client.get("/v1/plugins/echo/logs", params={"build": True}).text
        if (health["reason"] or "").startswith("building its image for ") and "./vendor/slow" in printed:
            return health
        assert time.monotonic() < end, (health, printed)
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0, 60])
def test_a_build_under_way_delays_no_stop(folder: Path, wait: float) -> None:
    """SIGTERM with `--stop-plugins` breaks it off, whether or not a caller waits for the restart."""
    with live_orchestrator([folder.parent]) as live:
        live.wait_ready(600)
        slowly_built(folder)
        caller = threading.Thread(
            target=lambda: httpx.post(
                f"{live.client.base_url}/v1/plugins/echo/restart", params={"wait": wait}, timeout=90, trust_env=False
            )
        )
        caller.start()
        _until_building(live)
        asked = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(60) == 0
        took = time.monotonic() - asked
        caller.join(90)
        assert live.containers() == []
        assert "does not answer" not in live.log.read_text()
    assert took < 12
