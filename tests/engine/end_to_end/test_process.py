"""The orchestrator as a process: without an engine, beside a second one, and how it stops."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = pytest.mark.slow

FIXTURES = TESTS / "fixtures" / "plugins"


@pytest.fixture
def only_echo(tmp_path: Path) -> Path:
    (tmp_path / "echo").symlink_to(FIXTURES / "echo")
    return tmp_path


def test_it_serves_without_an_engine(only_echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins are UNAVAILABLE with ENGINE_UNREACHABLE and what to do; the health routes answer."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/no-engine.sock")
    with live_orchestrator([only_echo], engine=False) as live:
        health = live.wait_for("echo", "UNAVAILABLE")
        assert health["reason_code"] == "ENGINE_UNREACHABLE"
        assert "restart" in health["reason"]
        assert live.client.get("/v1/plugins").status_code == 200
        assert live.run("echo", "echo", {"text": "x"}).status_code == 503
        assert f"serving on http://127.0.0.1:{live.client.base_url.port}" in live.log.read_text()


def test_a_second_one_on_the_same_state_folder_is_refused(only_echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says why and what to set."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/no-engine.sock")
    with live_orchestrator([only_echo], engine=False) as live:
        second = subprocess.run(
            [sys.executable, "-m", "orchestrator", "serve"],
            env=os.environ | {"ORCHESTRATOR_STATE_DIR": str(live.state_dir), "ORCHESTRATOR_PORT": "0"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert second.returncode == 1
    assert "ORCHESTRATOR_STATE_DIR" in second.stderr


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path: Path) -> None:
    """Before anything starts: no plugin is examined, and no traceback is shown."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        late = subprocess.run(
            [sys.executable, "-m", "orchestrator", "serve"],
            env=os.environ
            | {"ORCHESTRATOR_PORT": port, "ORCHESTRATOR_HOST": "127.0.0.1"}
            | {"ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"), "ORCHESTRATOR_PLUGINS_DIRS": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert late.returncode == 1
    assert port in late.stderr and "ORCHESTRATOR_PORT" in late.stderr
    assert "Traceback" not in late.stderr and "startup" not in late.stderr


def test_an_invalid_setting_is_named(only_echo: Path) -> None:
    """The variable, its value and what was expected; no traceback."""
    wrong = subprocess.run(
        [sys.executable, "-m", "orchestrator", "serve"],
        env=os.environ | {"ORCHESTRATOR_DEFAULT_TIMEOUT": "60"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert wrong.returncode == 2
    assert "ORCHESTRATOR_DEFAULT_TIMEOUT" in wrong.stderr
    assert "60s" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.engine
def test_a_run_in_flight_ends_before_the_process_stops(only_echo: Path) -> None:
    """SIGTERM: no new runs, those in flight are answered; with --stop-plugins no container remains."""
    with live_orchestrator([only_echo]) as live:
        live.wait_ready(300)
        answers: list[httpx.Response] = []
        run = threading.Thread(target=lambda: answers.append(live.run("echo", "sleep", {"seconds": 1.5})))
        run.start()
        _until_in_flight(live)
        live.process.send_signal(signal.SIGTERM)
        run.join(30)
        live.process.wait(30)
        assert answers[0].json()["ok"] is True
        assert live.process.returncode == 0
        assert live.containers() == []
        assert not (live.run_dir / live.deployment).exists()


def _terminated(process: subprocess.Popen[bytes], seconds: float) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(seconds)


def test_sigterm_ends_a_start_that_is_under_way(only_echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waits for: here an engine that never answers."""
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(f"{only_echo}/frozen.sock")
        frozen.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/frozen.sock")
        environment = os.environ | {
            "ORCHESTRATOR_PORT": "0",
            "ORCHESTRATOR_PLUGINS_DIRS": str(only_echo),
            "ORCHESTRATOR_STATE_DIR": f"{only_echo}/state",
            "ORCHESTRATOR_RUN_DIR": f"{only_echo}/run",
            "ORCHESTRATOR_ENGINE_TIMEOUT": "60s",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "serve", "--stop-plugins"],
            env=environment,
            stderr=subprocess.PIPE,
        )
        try:
            frozen.settimeout(60)
            with frozen.accept()[0]:  # it asks for the containers of an earlier orchestrator
                assert _terminated(process, 20) == 0
        finally:
            process.kill()
            process.communicate()


def test_health_is_answered_until_the_process_has_exited(only_echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is the last that closes: here while the history, whose database is locked, takes seconds to close."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/no-engine.sock")
    with live_orchestrator([only_echo], engine=False) as live:
        live.wait_for("echo", "UNAVAILABLE")
        with closing(sqlite3.connect(live.state_dir / "history.sqlite3", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            live.process.send_signal(signal.SIGTERM)
            asked = refused = time.monotonic()
            while live.process.poll() is None:
                with suppress(httpx.TransportError):
                    assert httpx.get(f"{live.client.base_url}/healthz", trust_env=False).status_code == 200
                    refused = time.monotonic()
            gone = time.monotonic()
        assert live.process.returncode == 0, live.log.read_text()
    assert gone - asked > 2, "nothing delayed the stop"
    assert gone - refused < 1


def test_systemd_is_told_when_it_serves_and_when_it_stops(only_echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a unit of `Type=notify` expects it."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/no-engine.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{only_echo}/notify.sock")
        systemd.settimeout(60)
        variables = {"NOTIFY_SOCKET": f"{only_echo}/notify.sock"}
        with live_orchestrator([only_echo], engine=False, variables=variables) as live:
            assert systemd.recv(100) == b"READY=1"
            assert live.client.get("/healthz").status_code == 200
            assert _terminated(live.process, 20) == 0
            assert systemd.recv(100) == b"STOPPING=1"


def test_a_signal_that_comes_before_it_can_be_handled_is_not_lost(
    only_echo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 1 of a container has no default for it: the entry point of the own image holds it back."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/no-engine.sock")
    program = (
        "import os, signal, sys\n"
        "from orchestrator.own_image import entrypoint\n"
        "execute = os.execv\n"
        "def signalled(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    execute(*arguments)\n"
        "os.execv, os.geteuid = signalled, lambda: 1\n"
        "sys.argv = ['orchestrator', 'serve']\n"
        "entrypoint.main()\n"
    )
    settings = {"PORT": "0", "PLUGINS_DIRS": only_echo, "STATE_DIR": only_echo / "state", "RUN_DIR": only_echo / "run"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {f"ORCHESTRATOR_{name}": str(value) for name, value in settings.items()},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0


@pytest.mark.engine
def test_a_log_follower_does_not_delay_the_stop(only_echo: Path) -> None:
    """Its stream ends properly; a run in flight is still answered."""
    with live_orchestrator([only_echo]) as live:
        live.wait_ready(300)
        answers: list[httpx.Response] = []
        run = threading.Thread(target=lambda: answers.append(live.run("echo", "sleep", {"seconds": 1.5})))
        with live.client.stream("GET", "/v1/plugins/echo/logs", params={"follow": "true"}) as follower:
            run.start()
            _until_in_flight(live)
            started = time.monotonic()
            live.process.send_signal(signal.SIGTERM)
            follower.read()  # raises if the stream is cut
            assert time.monotonic() - started < 1.5
            run.join(30)
            assert live.process.wait(20) == 0
        assert answers[0].json()["ok"] is True


def test_a_reader_of_events_does_not_delay_the_stop(only_echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends properly, at once."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{only_echo}/no-engine.sock")
    accept = {"Accept": "text/event-stream"}
    with live_orchestrator([only_echo], engine=False) as live:
        live.wait_for("echo", "UNAVAILABLE")
        with live.client.stream("GET", "/v1/events?after=0&include=health", headers=accept) as reader:
            lines = reader.iter_lines()
            while not next(lines).startswith("event: health"):
                pass
            started = time.monotonic()
            live.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line.startswith("event:")] == []  # raises if the stream is cut
            assert time.monotonic() - started < 1.5
            assert live.process.wait(20) == 0
        assert "ERROR" not in live.log.read_text()


@pytest.mark.engine
def test_containers_of_a_killed_orchestrator_are_adopted_or_removed_at_the_next_start(only_echo: Path) -> None:
    """After SIGKILL the container stays; the next start of the same deployment deals with it, and with no other."""
    with live_orchestrator([only_echo]) as live:
        live.wait_ready(300)
        (left,) = live.containers()
        live.process.kill()
        live.process.wait(10)
        assert [container.id for container in live.containers()] == [left.id]
        settings = {"state_dir": str(live.state_dir), "run_dir": str(live.run_dir)}
        with live_orchestrator([only_echo], **settings) as again:
            again.wait_ready(60)
            assert len(live.containers()) == 1
            assert again.run("echo", "echo", {"text": "back"}).json()["result"] == "back"


def _until_in_flight(live: LiveOrchestrator) -> None:
    end = time.monotonic() + 10
    while live.health("echo")["in_flight"] == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
