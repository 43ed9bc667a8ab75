"""Another project's tests, with the wheel alone: they read as documentation, and leave nothing behind."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support.checkout import TESTS
from support.waiting import PATIENCE

from orchestrator.testing.leftovers import OWNER, is_alive

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

PROJECT = TESTS / "fixtures" / "foreign_project"
MAX_SECONDS = 60
"""For its ten tests on two cores, with the images there."""


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def command(python: Path, *arguments: str) -> list[str]:
    return [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def environment() -> dict[str, str]:
    """Of this process, without what this test session has set for itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


def session(python: Path, *arguments: str) -> str:
    """Run its tests; what was printed."""
    done = subprocess.run(
        command(python, *arguments),
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600 * PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


def left_by_the_dead(engine: docker.DockerClient) -> list[str]:
    """Names of containers and volumes whose test process has died."""
    filters = {"label": OWNER}
    containers = engine.containers.list(all=True, filters=filters, ignore_removed=True)
    volumes = engine.volumes.list(filters=filters)
    labelled = [(c.name, c.labels) for c in containers] + [(v.name, v.attrs["Labels"] or {}) for v in volumes]
    return [name for name, labels in labelled if not is_alive(labels[OWNER])]


def test_its_ten_tests_pass_in_a_minute(installed_for_tests: Path, engine: docker.DockerClient) -> None:
    """One per group of reason codes, GPUs, streams, asynchronous runs, update, full queue, silent host."""
    session(installed_for_tests, "-k", "test_a_picture_is_labelled")  # builds what is not there
    printed = session(installed_for_tests)
    found = re.search(r"10 passed in ([\d.]+)s", printed)
    assert found, printed[-3000:]
    assert float(found[1]) < MAX_SECONDS * PATIENCE
    assert left_by_the_dead(engine) == []


def test_workers_of_xdist_share_one_orchestrator(installed_for_tests: Path, engine: docker.DockerClient) -> None:
    """It is removed when the last has ended."""
    printed = session(installed_for_tests, "-n", "2", "-k", "labelled or refuses or film")
    assert "3 passed" in printed, printed[-3000:]
    assert left_by_the_dead(engine) == []


FAILING = """
def test_a_plugin_that_fails(orchestrator):
    with orchestrator.fault("labeller", "CRASHED", tool="label"):
        orchestrator.client.run("labeller", "label", picture=b"x")
"""


def test_the_report_of_a_failed_test_says_what_the_plugin_did(installed_for_tests: Path, tmp_path: Path) -> None:
    """Its post-mortem, though the plugin serves again, and the orchestrator's log."""
    for source in PROJECT.rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            copy = tmp_path / source.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    (tmp_path / "tests" / "test_labels.py").write_text(FAILING)
    done = subprocess.run(
        command(installed_for_tests), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    for words in ("1 failed", "plugin labeller: FAILED, CRASHED", "signal: SIGSEGV", "log of the orchestrator"):
        assert words in done.stdout, done.stdout[-3000:]


def test_what_killed_sessions_left_the_next_one_removes(
    installed_for_tests: Path, engine: docker.DockerClient, request: pytest.FixtureRequest
) -> None:
    """Killed by SIGKILL at any time; containers and volumes, ten seconds after the start of the next session."""
    for _ in range(request.config.getoption("--session-kills")):
        killed = subprocess.Popen(
            command(installed_for_tests, "-k", "labelled or memory"),
            cwd=PROJECT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.uniform(2, 15))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    last = subprocess.Popen(
        command(installed_for_tests, "-k", "test_a_picture_is_labelled"),
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 10 * PATIENCE
        while left := left_by_the_dead(engine):
            assert time.monotonic() < end, left
            time.sleep(0.2)
    finally:
        assert last.wait(300) == 0
