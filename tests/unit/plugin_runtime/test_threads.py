"""What an author set up for a thread holds where the tools run, and what works in `validate` works in a tool."""

import threading
import time

import pytest
from unit.plugin_runtime.run_calls import Caller, about, executes, wait_for

SOURCE = """
    import asyncio, contextvars, decimal, os, signal, sqlite3, sys, threading, time
    from plugin_runtime import cancelled, tool

    seen = {"import": threading.current_thread().name}
    setting = contextvars.ContextVar("setting", default="unset")
    local = threading.local()

    def here():
        return threading.current_thread().name

    class Plugin:
        def __init__(self):
            seen["init"] = here()

        def validate(self):
            seen["validate"] = here()
            decimal.getcontext().prec = 5
            setting.set("by validate")
            local.value = 7
            self.database = sqlite3.connect(":memory:")
            self.ran = []

        @tool
        def threads(self) -> object:
            return {**seen, "tool": here(), "main": threading.current_thread() is threading.main_thread()}

        @tool
        def set_up(self) -> object:
            one = self.database.execute("select 1").fetchone()[0]
            return [str(decimal.Decimal(1) / 3), setting.get(), getattr(local, "value", None), one]

        @tool
        def steps(self) -> object:
            for _ in range(3):
                yield here()

        @tool
        async def sees_the_setting(self) -> object:
            return [setting.get(), here()]

        @tool
        def uses_signals(self) -> str:
            before = signal.signal(signal.SIGALRM, lambda *_: self.ran.append("alarm"))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            time.sleep(0.1)
            signal.signal(signal.SIGALRM, before)
            return self.ran.pop()

        @tool
        def runs_a_loop(self) -> int:
            async def compute():
                await asyncio.sleep(0)
                return 42
            return asyncio.run(compute())

        @tool
        def gets_a_loop(self) -> int:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            return asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 43))

        @tool
        def exits(self, how: str) -> None:
            raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt()}[how]

        @tool
        def alarms_later(self) -> None:
            def handler(*_):
                raise KeyError("too late")
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)

        @tool
        def alarms_in_time(self) -> str:
            def handler(*_):
                raise TimeoutError("in time")
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            time.sleep(5)

        @tool
        def sleeps(self, seconds: float) -> str:
            time.sleep(seconds)
            return here()

        @tool
        def forks(self) -> int:
            pid = os.fork()
            if pid == 0:
                return -1
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE).ready()


def test_with_one_run_at_a_time_all_plain_code_runs_in_the_main_thread(runtime):
    threads = runtime.result("threads")
    assert threads.pop("main") is True
    assert set(threads.values()) == {"MainThread"}
    assert '"MainThread"' in runtime.run("steps").text
    assert runtime.run("steps").text.count("MainThread") == 3


def test_what_validate_set_for_its_thread_holds_in_tools(runtime):
    """The decimal context, a context variable, a thread-local value, a connection that one thread alone may use."""
    for _ in range(2):
        with runtime.new_client("tools") as client:
            result = client.post("/tools/set_up", json={}).json()["result"]
        assert result == ["0.33333", "by validate", 7, 1]


def test_async_tools_see_context_variables_of_validate(runtime):
    assert runtime.result("sees_the_setting") == ["by validate", "async-tools"]


@pytest.mark.parametrize(
    ("tool", "result"), [("uses_signals", "alarm"), ("runs_a_loop", 42), ("gets_a_loop", 43), ("forks", 70)]
)
def test_code_for_the_main_thread_alone_works_in_a_tool(runtime, tool, result):
    assert runtime.result(tool) == result
    assert runtime.result(tool) == result


@pytest.mark.parametrize(("how", "error_type"), [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")])
def test_whatever_a_tool_raises_in_the_main_thread_ends_the_call_alone(runtime, how, error_type):
    answer = runtime.run("exits", how=how)
    assert (answer.status_code, answer.json()["error_type"]) == (500, error_type)
    assert runtime.result("runs_a_loop") == 42


def test_a_signal_handler_that_raises_ends_no_more_than_the_tool_it_interrupts(runtime):
    assert runtime.run("alarms_in_time").json()["error"] == "in time"
    assert runtime.run("alarms_later").status_code == 200
    wait_for(lambda: "a signal handler raised KeyError" in runtime.log.read_text())
    assert runtime.result("runs_a_loop") == 42


def test_the_worker_answers_while_its_main_thread_runs_a_tool(runtime):
    """Status, liveness, diagnosis, and what callers request about runs."""
    caller = Caller(runtime, "long", "sleeps", seconds=2.0)
    assert [run["run_id"] for run in runtime.status()["runs"]] == ["long"]
    with runtime.new_client("tools") as client:
        assert client.get("/pulse").status_code == 200
        assert client.post("/runs/long/cancel").status_code == 202
        assert client.post("/tools/sleeps", json={"seconds": "x"}).status_code == 422
    assert "in sleeps" in runtime.diagnose()
    assert executes(runtime, "long")
    assert caller.ended().json()["result"] == "MainThread"


def test_a_run_that_is_cancelled_while_it_waits_for_the_thread_never_starts(runtime):
    first = Caller(runtime, "first", "sleeps", seconds=2)
    answers = []

    def call():
        with runtime.new_client("tools") as client:
            answers.append(client.post("/tools/sleeps", json={"seconds": 0}, headers={"X-Run-Id": "second"}))

    second = threading.Thread(target=call)
    second.start()
    wait_for(lambda: about(runtime, "POST", "second", "/cancel").status_code == 202)
    second.join()
    assert answers[0].json()["kind"] == "cancelled"
    assert first.ended().json()["ok"]


@pytest.mark.slow
def test_connections_come_and_go_and_the_author_sees_as_many_threads_as_may_run(launch):
    """Libraries keep memory and threads of their own for every thread that ever called them."""
    runtime = launch(SOURCE, concurrency="3").ready()
    names = set()
    for _ in range(4):
        callers = [Caller(runtime, f"run{number}", "sleeps", seconds=0.2) for number in range(3)]
        names |= {caller.ended().json()["result"] for caller in callers}
    assert names <= {"tools-1", "tools-2", "tools-3"}
    assert runtime.result("threads")["validate"] == "MainThread"


def test_a_call_beyond_the_concurrency_waits_for_a_thread(launch):
    runtime = launch(SOURCE, concurrency="2").ready()
    callers = [Caller(runtime, f"run{number}", "sleeps", seconds=0.3) for number in range(2)]
    with runtime.new_client("tools") as client:
        assert client.post("/tools/sleeps", json={"seconds": 0}).json()["result"] in {"tools-1", "tools-2"}
    assert all(caller.ended().json()["ok"] for caller in callers)


CALL = b'POST /tools/sleeps HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"seconds": 0}'


def answers(connection, count):
    received = b""
    while received.count(b'"execution_time_ms"') < count:
        data = connection.recv(65536)
        assert data
        received += data
    return received


def test_calls_that_come_together_or_in_pieces_are_all_answered(runtime):
    """On the connection that the main thread waits for by itself."""
    with runtime.connect("tools") as connection:
        for _ in range(3):
            connection.sendall(CALL)
            assert b'"MainThread"' in answers(connection, 1)
        connection.sendall(CALL * 5)
        assert answers(connection, 5).count(b'"MainThread"') == 5
        connection.sendall(CALL + CALL[:30])
        answers(connection, 1)
        time.sleep(0.05)
        connection.sendall(CALL[30:-3])
        time.sleep(0.05)
        connection.sendall(CALL[-3:] + CALL)
        answers(connection, 2)


def test_connections_that_alternate_are_all_answered(runtime):
    """And each may end between two calls, or stay idle."""
    with runtime.connect("tools") as idle, runtime.connect("tools") as first, runtime.connect("tools") as second:
        idle.sendall(CALL)
        answers(idle, 1)
        for _ in range(5):
            for connection in (first, second):
                connection.sendall(CALL)
                assert b'"MainThread"' in answers(connection, 1)
        first.sendall(b"GET /pulse HTTP/1.1\r\n\r\n")
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        second.close()
        idle.sendall(CALL)
        answers(idle, 1)
        first.sendall(b"nonsense\r\n\r\n")
        assert first.recv(1000).startswith(b"HTTP/1.1 400")
        idle.sendall(b"GET /runs/none HTTP/1.1\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 404")
    assert runtime.result("runs_a_loop") == 42


def test_a_request_for_a_runs_answer_holds_up_no_call(runtime):
    """Also on the connection that the main thread waits for: waiting there would be for ever."""
    with runtime.connect("tools") as connection:
        connection.sendall(CALL)
        answers(connection, 1)
        caller = Caller(runtime, "awaited", "sleeps", seconds=0.4, retain=True)
        connection.sendall(b"GET /runs/awaited HTTP/1.1\r\n\r\n")
        assert b'"MainThread"' in answers(connection, 1)
        assert caller.ended().json()["ok"]


ASYNC = """
    import asyncio, contextvars, functools, threading
    from plugin_runtime import tool

    setting = contextvars.ContextVar("setting", default="unset")

    class Plugin:
        {validate}

        @tool
        async def same(self) -> object:
            return [self.loop is asyncio.get_running_loop(), setting.get(), self.thread == threading.get_ident()]
"""


def start(launch, validate):
    return launch(ASYNC.replace("{validate}", validate.strip().replace("\n", "\n    ")))


def test_an_async_validate_is_awaited_on_the_loop_of_the_async_tools(launch):
    runtime = start(
        launch,
        """
    async def validate(self):
        await asyncio.sleep(0)
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        setting.set("by validate")
    """,
    ).ready()
    assert runtime.result("same") == [True, "by validate", True]


FAILING = {
    "it raises": ("async def validate(self): raise RuntimeError('model is broken')", "model is broken"),
    "it exits": ("async def validate(self): raise SystemExit(4)", "sys.exit(4)"),
    "it is a generator": ("def validate(self): yield", "is a generator"),
    "it is an async generator": ("async def validate(self): yield", "is a generator"),
    "it returns a coroutine that raises": (
        "def validate(self): return self.load()\n    async def load(self): raise OSError('no disk')",
        "no disk",
    ),
    "it gives another coroutine": (
        "async def validate(self): return self.more()\n    async def more(self): raise OSError('unreached')",
        "that nothing awaits",
    ),
}


@pytest.mark.parametrize(("validate", "phrase"), FAILING.values(), ids=FAILING)
def test_a_validate_that_fails_when_it_is_awaited_fails_the_start(launch, validate, phrase):
    status = start(launch, validate).settled()
    assert (status["phase"], status["reason_code"]) == ("failed", "VALIDATE_ERROR")
    assert phrase in status["reason"]
