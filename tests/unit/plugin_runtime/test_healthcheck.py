"""The health check is for the engine: an exit status and one line."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from plugin_runtime import healthcheck as healthcheck_module

FINE = "class Plugin:\n    def validate(self): pass"
PROBE = Path(healthcheck_module.__file__).with_suffix(".sh")


def healthcheck(run_dir, health_file="", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
    return subprocess.run(
        ["/bin/sh", PROBE],
        env={"PLUGIN_RUN_DIR": str(run_dir), "PLUGIN_HEALTH_FILE": str(health_file), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def note(tmp_path):
    """The path of the supervisor's health note."""
    return tmp_path / "health"


def uptime():
    return int(float(Path("/proc/uptime").read_text().split()[0]))


@pytest.mark.parametrize(
    ("source", "returncode", "says"),
    [
        (FINE, 0, ""),
        ("raise ValueError('bad')", 1, "the plugin is failed: importing plugin raised ValueError: bad"),
        ("import os; os._exit(3)", 1, "the plugin is exited"),
    ],
    ids=["ready", "failed", "exited"],
)
@pytest.mark.parametrize("noted", [True, False], ids=["noted", "requested"])
def test_the_exit_status_says_whether_the_plugin_can_be_used(launch, note, source, returncode, says, noted):
    runtime = launch(source, health_file=str(note) if noted else "")
    runtime.settled()
    done = healthcheck(runtime.run_dir, note)
    assert note.exists() is noted
    assert done.returncode == returncode
    assert says in done.stdout
    assert len(done.stdout.splitlines()) == (1 if says else 0)
    assert done.stderr == ""


def test_a_plugin_that_is_starting_is_healthy(launch):
    runtime = launch("import time; time.sleep(60)")
    runtime.listening()
    assert healthcheck(runtime.run_dir).returncode == 0


def test_a_fresh_note_needs_no_interpreter(launch, note):
    """Which would be most of what an idle plugin costs."""
    runtime = launch("import time; time.sleep(60)", health_file=str(note))
    runtime.listening()
    while not (note.exists() and note.read_text()):  # it comes a moment after the socket
        time.sleep(0.01)
    assert healthcheck(runtime.run_dir, note, path="/nowhere").returncode == 0
    assert note.read_text().split()[1:] == ["starting"]


def test_the_note_is_renewed(launch, note):
    launch(FINE, health_file=str(note)).settled()
    ages = []
    for _ in range(10):
        time.sleep(0.5)
        ages.append(uptime() - int(note.read_text().split()[0]))
    assert min(ages) >= 0
    assert max(ages) <= 4


NO_NOTES = [
    "{old} ready",
    "{ahead} ready",
    "{now} failed",
    "{now} exited",
    "{now} ready or not",
    "{now}",
    "now ready",
    "-1 ready",
    "",
    "99999999999999999999999999 ready",
    "$(exit) ready",
]


@pytest.mark.parametrize("text", NO_NOTES)
def test_any_other_note_is_not_believed(launch, note, text):
    """The supervisor's status is requested: a forged or old note makes no healthy plugin unhealthy."""
    runtime = launch(FINE)
    runtime.settled()
    note.write_text(text.format(now=uptime(), old=uptime() - 20, ahead=uptime() + 20) + "\n")
    assert healthcheck(runtime.run_dir, note).returncode == 0
    done = healthcheck("/nowhere", note)
    assert (done.returncode, done.stderr) == (1, "")
    assert "/nowhere/control.sock does not answer" in done.stdout


def test_a_supervisor_that_cannot_be_reached_notes_nothing(launch, tmp_path):
    """Whether its socket was removed or replaced."""
    notes = [tmp_path / "removed", tmp_path / "replaced"]
    runtimes = [launch(FINE, health_file=str(note)) for note in notes]
    with contextlib.ExitStack() as stack:
        watchers = []
        for runtime in runtimes:
            runtime.settled()
            watchers.append(stack.enter_context(contextlib.closing(runtime.watch())))
            next(watchers[-1])
            (runtime.run_dir / "control.sock").unlink()
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(runtimes[1].run_dir / "control.sock"))
        last = [note.read_text() for note in notes]
        time.sleep(7)
        assert [note.read_text() for note in notes] == last
        for runtime, lines in zip(runtimes, watchers, strict=True):
            runtime.process.send_signal(signal.SIGTERM)  # and its watchers got no line
            assert [status["phase"] for status in lines_until_the_end(lines)] in (["exited"], [])


def lines_until_the_end(lines):
    with contextlib.suppress(httpx.RemoteProtocolError):
        yield from lines


def test_a_supervisor_that_hangs_is_unhealthy(launch, note):
    """Its note has grown old by then, and it does not answer."""
    runtime = launch(FINE, health_file=str(note))
    runtime.settled()
    runtime.process.send_signal(signal.SIGSTOP)
    try:
        note.write_text(f"{uptime() - 10} ready\n")
        done = healthcheck(runtime.run_dir, note)
    finally:
        runtime.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert "does not answer: timed out" in done.stdout


def test_no_supervisor_is_unhealthy():
    with tempfile.TemporaryDirectory() as folder:
        done = healthcheck(folder)
    assert done.returncode == 1
    assert "does not answer" in done.stdout


def test_the_check_needs_neither_site_packages_nor_the_package(launch):
    """Whatever a plugin has installed."""
    runtime = launch(FINE)
    runtime.settled()
    done = subprocess.run(
        [sys.executable, "-I", "-S", healthcheck_module.__file__],
        env={"PLUGIN_RUN_DIR": str(runtime.run_dir)},
        check=False,
    )
    assert done.returncode == 0
