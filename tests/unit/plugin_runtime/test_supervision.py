"""The supervisor answers whatever the worker does, says how it died, and leaves nothing behind."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

SOURCE = """
    import ctypes, os, re, signal, subprocess, sys, threading, time
    from plugin_runtime import tool

    class Plugin:
        def validate(self): pass

        @tool
        def holds_the_gil(self) -> None:
            print("tool begins")
            catastrophe()

        @tool
        def hangs(self) -> None:
            print("tool begins")
            threading.Event().wait()

        @tool
        def segfaults(self) -> None:
            ctypes.string_at(0)

        @tool
        def exits(self, code: int) -> None:
            os._exit(code)

        @tool
        def is_killed(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        @tool
        def leaves_orphans(self) -> list:
            script = "import os, time\\nfor _ in range(5):\\n if os.fork() == 0: time.sleep(0.05); os._exit(0)"
            subprocess.run([sys.executable, "-c", script], check=True)
            return []

        @tool
        def ignores_sigterm(self) -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

        @tool
        def add(self, a: int) -> int:
            return a + 1

        @tool
        def oom_score(self) -> list:
            return [open("/proc/self/oom_score_adj").read().strip(), os.getppid()]

    def catastrophe():
        re.match(r"(a+)+$", "a" * 60 + "b")
"""


@pytest.fixture
def runtime(launch):
    return launch(SOURCE).ready()


@contextlib.contextmanager
def calling(runtime, tool):
    """The call goes on while the block runs; it ends with the worker."""

    def call():
        with runtime.new_client("tools") as client, contextlib.suppress(httpx.HTTPError):
            client.post(f"/tools/{tool}", timeout=60)

    thread = threading.Thread(target=call)
    worker = runtime.status()["worker"]["pid"]
    thread.start()
    deadline = time.monotonic() + 10
    while "tool begins" not in runtime.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # from print to what follows it
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        thread.join()


def test_the_supervisor_answers_in_milliseconds_while_the_worker_holds_the_gil(runtime):
    with calling(runtime, "holds_the_gil"):
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            assert runtime.status()["phase"] == "ready"
            times.append(time.perf_counter() - begin)
        assert sorted(times)[25] < 0.02


def test_a_diagnosis_shows_where_a_tool_holds_the_gil(runtime):
    with calling(runtime, "holds_the_gil"):
        begin = time.monotonic()
        stacks = runtime.diagnose()
        assert time.monotonic() - begin < 1.0
    assert "in catastrophe" in stacks
    assert "in holds_the_gil" in stacks
    assert "plugin.py" in stacks


def test_a_diagnosis_shows_every_thread_and_can_be_repeated(launch):
    runtime = launch(SOURCE, concurrency="2").ready()
    with calling(runtime, "hangs"):
        for _ in range(2):
            stacks = runtime.diagnose()
            assert stacks.count("in hangs") == 1
            assert "in accept_for_ever" in stacks
        assert runtime.result("add", a=1) == 2


def test_callers_who_request_a_diagnosis_together_all_get_it(runtime):
    found = []

    def diagnose():
        with runtime.new_client("control") as client:
            found.append(client.post("/diagnose").json()["stacks"])

    threads = [threading.Thread(target=diagnose) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("in accept_for_ever" in stacks for stacks in found)
    assert len(found) == 5


def test_a_diagnosis_works_while_the_plugin_starts(launch):
    runtime = launch("import time\ndef stuck(): time.sleep(60)\nstuck()")
    runtime.listening()
    deadline = time.monotonic() + 5
    while "in stuck" not in (stacks := runtime.diagnose()) and time.monotonic() < deadline:
        pass
    assert "in stuck" in stacks


@pytest.mark.parametrize(
    ("tool", "arguments", "exit_code", "number", "logged"),
    [
        ("segfaults", {}, None, signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
        ("exits", {"code": 0}, 0, None, ""),
        ("exits", {"code": 9}, 9, None, ""),
        ("is_killed", {}, None, signal.SIGKILL, ""),
    ],
)
def test_how_a_worker_died_in_a_tool_is_reported(runtime, tool, arguments, exit_code, number, logged):
    with contextlib.closing(runtime.watch()) as lines:
        assert next(lines)["phase"] == "ready"
        with pytest.raises(httpx.RemoteProtocolError):
            runtime.run(tool, **arguments)
        status = next(status for status in lines if status["phase"] != "ready")
    assert status["phase"] == "exited"
    assert (status["worker"]["exit_code"], status["worker"]["signal"]) == (exit_code, number)
    assert runtime.status()["phase"] == "exited"
    assert runtime.diagnose() == ""
    assert runtime.process.poll() is None
    assert logged in runtime.log.read_text()


def test_sigterm_ends_the_worker_and_then_the_supervisor(runtime):
    worker = runtime.status()["worker"]["pid"]
    runtime.process.send_signal(signal.SIGTERM)
    assert runtime.process.wait(5) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_sigterm_ends_a_worker_that_holds_the_gil(runtime):
    with calling(runtime, "holds_the_gil"):
        runtime.process.send_signal(signal.SIGTERM)
        assert runtime.process.wait(5) == 0


def test_sigterm_ends_a_supervisor_whose_worker_has_exited(runtime):
    with pytest.raises(httpx.RemoteProtocolError):
        runtime.run("exits", code=1)
    runtime.until(lambda status: status["phase"] == "exited")
    runtime.process.send_signal(signal.SIGTERM)
    assert runtime.process.wait(5) == 0


def test_the_supervisor_waits_for_a_worker_that_does_not_leave(launch):
    source = """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        class Plugin:
            def validate(self): pass
    """
    runtime = launch(source).ready()
    runtime.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert runtime.status()["phase"] == "ready"
    os.kill(runtime.status()["worker"]["pid"], signal.SIGKILL)
    assert runtime.process.wait(5) == 0


def test_orphans_are_reaped(runtime):
    runtime.run("leaves_orphans")
    deadline = time.monotonic() + 5
    while len(children(runtime.process.pid)) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert children(runtime.process.pid) == [runtime.status()["worker"]["pid"]]


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_worker_dies_with_its_supervisor(runtime):
    worker = runtime.status()["worker"]["pid"]
    runtime.process.kill()
    runtime.process.wait()
    deadline = time.monotonic() + 5
    while state(worker) not in {"ended", "Z"} and time.monotonic() < deadline:  # whoever reaps it here takes its time
        time.sleep(0.02)
    assert state(worker) in {"ended", "Z"}


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "ended"


def test_the_kernel_kills_the_worker_before_the_supervisor(runtime):
    score, parent = runtime.result("oom_score")
    assert score == "1000"
    assert parent == runtime.process.pid
    assert int(Path(f"/proc/{parent}/oom_score_adj").read_text()) < 1000


def test_the_supervisor_loads_no_plugin_code_and_starts_no_thread(runtime):
    proc = Path(f"/proc/{runtime.process.pid}")
    assert "msgspec" not in (proc / "maps").read_text()
    assert len(list((proc / "task").iterdir())) == 1


def test_supervisor_and_worker_together_need_little_memory(runtime):
    total = 0
    for pid in (runtime.process.pid, runtime.status()["worker"]["pid"]):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert total < 30 * 1024


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /status HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST /diagnose HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"POST /diagnose HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_the_control_socket_does_not_understand_is_refused_and_closed(runtime, data):
    with runtime.connect("control") as connection:
        connection.sendall(data)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        with contextlib.suppress(ConnectionResetError):  # what it did not read, it does not answer either
            assert connection.recv(65536) == b""
    assert runtime.status()["phase"] == "ready"


def test_the_control_socket_takes_many_requests_on_one_connection(runtime):
    with runtime.connect("control") as connection:
        connection.sendall(b"GET /status HTTP/1.1\r\n\r\n" * 2000)
        received = b""
        while received.count(b'{"protocol":1') < 2000:
            received += connection.recv(1 << 20)
        connection.sendall(b"GET /other HTTP/1.1\r\n\r\n")
        while b"HTTP/1.1 404 " not in received[-100_000:]:  # behind the rest of the last status
            more = connection.recv(65536)
            assert more, "the connection was closed"
            received += more


def test_a_watcher_gets_an_unchanged_status_now_and_then(runtime):
    """Every three seconds, with fresh figures: nobody has to poll."""
    with contextlib.closing(runtime.watch()) as lines:
        first = next(lines)
        start = time.monotonic()
        later = [next(lines) for _ in range(2)]
    assert 3 <= time.monotonic() - start < 7
    assert [status["phase"] for status in later] == ["ready"] * 2
    assert first["uptime_seconds"] < later[0]["uptime_seconds"] < later[1]["uptime_seconds"]


def test_a_watcher_that_does_not_read_hinders_nobody(runtime):
    with runtime.connect("control") as connection:
        connection.sendall(b"GET /watch HTTP/1.1\r\n\r\n")
        for _ in range(20):
            assert runtime.status()["phase"] == "ready"
            assert runtime.result("add", a=1) == 2
