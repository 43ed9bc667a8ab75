"""What a plugin prints reaches the container's log line by line, also where it ends no line."""

import json
import math
import os
import selectors
import time

import pytest
from plugin_runtime.supervising.output import MAX_LINE_SECONDS, QUIET_SECONDS, LineEnds, OutputRelay

PATIENCE = 15.0
SOURCE = """
    import os, subprocess, sys, threading, time
    from plugin_runtime import tool

    print("Loading", end="")

    class Plugin:
        def validate(self): pass

        @tool
        def waits(self, text: str) -> None:
            print(text, end="")
            threading.Event().wait()

        @tool
        def complains(self, text: str) -> None:
            sys.stderr.write(text)
            threading.Event().wait()

        @tool
        def child(self, text: str) -> None:
            subprocess.run(["sh", "-c", f"printf '{text}'; sleep 20"])

        @tool
        def forks(self, text: str) -> None:
            print("before the fork", end="")
            time.sleep(1)
            if os.fork() == 0:
                print(text, end="")
                time.sleep(5)
                os._exit(0)  # nobody else ends it
            threading.Event().wait()

        @tool
        def redraws(self, times: int) -> None:
            for number in range(times):
                print(f"\\r{number} of {times}", end="")
                time.sleep(0.02)

        @tool
        def prints(self, count: int) -> None:
            for number in range(count):
                print(f"line {number}")

        @tool
        def is_killed(self) -> None:
            print("x" * 300_000 + "the last words", end="", flush=True)
            os.kill(os.getpid(), 9)
"""


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def runtime(launch_once):
    runtime = launch_once(SOURCE.replace("\\r", "\\\\r"), concurrency="8").ready()
    # What is printed next would be its continuation.
    until(lambda: "Loading" in log_of(runtime)[:-1], lambda: log_of(runtime))
    return runtime


def log_of(runtime) -> list[str]:
    with runtime.log.open(newline="") as log:
        return log.read().split("\n")


def begin(runtime, tool: str, **arguments) -> None:
    """Call it without waiting for its end."""
    body = json.dumps(arguments)
    head = f"POST /tools/{tool} HTTP/1.1\r\nHost: p\r\nX-Run-Id: {tool}\r\nX-Run-Keep: 1\r\n"
    with runtime.connect("tools") as connection:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        until(lambda: any(run["tool"] == tool for run in runtime.status()["runs"]), lambda: "the tool begins")


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["waits", "complains", "child", "forks"])
def test_what_ends_no_line_is_soon_a_line_of_its_own(runtime, tool):
    """A prompt, in whatever stream or process of the plugin."""
    begin(runtime, tool, text=f"{tool}>")
    until(lambda: f"{tool}>" in log_of(runtime)[:-1], lambda: log_of(runtime)[-5:])


@pytest.mark.slow
def test_a_progress_bar_appears_while_it_is_redrawn(runtime):
    """Its line never ends by itself, and is never quiet either."""
    begin(runtime, "redraws", times=100_000)
    until(lambda: sum("of 100000" in line for line in log_of(runtime)[:-1]) >= 2, lambda: log_of(runtime)[-5:])


@pytest.mark.slow
def test_lines_arrive_whole_and_in_order(launch):
    runtime = launch(SOURCE).ready()
    assert runtime.result("prints", count=20_000) is None
    expected = [f"line {number}" for number in range(20_000)]
    until(lambda: expected[-1] in log_of(runtime), lambda: log_of(runtime)[-5:])
    lines = [line.removeprefix("Loading") for line in log_of(runtime)]  # which nothing had ended yet, perhaps
    assert [line for line in lines if line.startswith("line ")] == expected


@pytest.mark.slow
def test_when_the_worker_dies_its_last_output_is_there(launch):
    runtime = launch(SOURCE).ready()
    begin_quietly(runtime, "is_killed")
    # Line ends are added where the machine is so busy that a pause comes in between.
    until(lambda: "the last words" in printed_by(runtime), lambda: printed_by(runtime)[-100:])
    assert printed_by(runtime).endswith("x" * 300_000 + "the last words")
    assert runtime.stop() == 0


@pytest.mark.slow
def test_the_last_output_before_the_end_of_the_runtime_is_there(launch):
    """More than a pipe holds, printed while the runtime is being stopped."""
    source = """
        class Plugin:
            def validate(self): pass
            def close(self): print("y" * 300_000 + "good bye", end="")
    """
    runtime = launch(source).ready()
    assert runtime.stop() == 0
    assert printed_by(runtime).endswith("y" * 300_000 + "good bye")


@pytest.mark.slow
def test_a_start_that_is_reported_as_failed_is_explained_in_the_log_by_then(launch):
    """Not a moment later: the next thing to happen to the container may be its end."""
    for _ in range(5):
        runtime = launch("print('z' * 60_000)\nraise RuntimeError('no licence')")
        assert runtime.settled()["phase"] == "failed"
        assert "RuntimeError: no licence" in runtime.log.read_text()


def printed_by(runtime) -> str:
    return runtime.log.read_text().replace("\n", "")


def begin_quietly(runtime, tool: str) -> None:
    with runtime.connect("tools") as connection:
        connection.sendall(
            f"POST /tools/{tool} HTTP/1.1\r\nHost: p\r\nX-Run-Id: 1\r\nContent-Length: 0\r\n\r\n".encode()
        )
        connection.recv(1)


@pytest.mark.parametrize(
    ("printed", "passed_on"),
    [
        ([(0.0, b"one\n"), (9.0, b"two\n")], b"one\ntwo\n"),
        ([(0.0, b"one"), (0.1, b" two\n")], b"one two\n"),
        ([(0.0, b"one"), (9.0, b"two\n")], b"one\ntwo\n"),
        # The line is ended once, by us or by the plugin.
        ([(0.0, b"one"), (9.0, b"\n"), (9.1, b"two\n")], b"one\ntwo\n"),
        ([(0.0, b"one"), (9.0, b"\n\ntwo\n")], b"one\n\ntwo\n"),
        ([(0.0, b"\n"), (9.0, b"\n")], b"\n\n"),
        # Never quiet for long: a progress bar.
        (
            [(each / 10, b"\r%d" % each) for each in range(15)],
            b"\r0\r1\r2\r3\r4\r5\r6\r7\r8\r9\r10\n\r11\r12\r13\r14\n",
        ),
        ([(each / 10, b"%d\n%d" % (each, each)) for each in range(3)], b"0\n01\n12\n2\n"),
    ],
)
def test_line_ends_are_added_where_the_plugin_prints_none(printed, passed_on):
    lines, out = LineEnds(), b""
    for at, data in printed:
        if at > lines.due_at():
            out += lines.take(lines.due_at())
        out += lines.feed(data, at)
    if not math.isinf(lines.due_at()):
        out += lines.take(lines.due_at())
    assert out == passed_on
    assert QUIET_SECONDS < MAX_LINE_SECONDS


class Pipes:
    """A relay between two pipes."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.source, self.write_end = os.pipe()
        self.read_end, self.target = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)
        self.relay = OutputRelay(self.source, self.target, self.selector)

    def turn(self) -> int:
        """One round of the supervisor's loop; the number of events."""
        ready = self.selector.select(0)
        for key, events in ready:
            key.data(events)
        return len(ready)

    def print_until_full(self) -> int:
        """How many bytes the plugin can print before it has to wait."""
        printed = 0
        while True:
            try:
                printed += os.write(self.write_end, b"x" * 4096)
            except BlockingIOError:
                if not self.turn():
                    return printed

    def close(self) -> None:
        for descriptor in (self.source, self.write_end, self.read_end, self.target):
            os.close(descriptor)
        self.selector.close()


@pytest.fixture
def pipes():
    pipes = Pipes()
    yield pipes
    pipes.close()


def test_a_log_that_nobody_reads_holds_up_the_plugin_and_not_the_supervisor(pipes):
    """As without a relay: the plugin waits in its write. The relay neither waits nor spins, and loses nothing."""
    printed = pipes.print_until_full()
    assert printed < 1024 * 1024
    assert pipes.turn() == 0
    received = b""
    while len(received) < printed:
        with_data = os.read(pipes.read_end, 65536) if selectable(pipes.read_end) else b""
        received += with_data
        assert pipes.turn() or with_data, f"{len(received)} of {printed} bytes"
    assert received == b"x" * printed


def selectable(descriptor: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


def test_a_log_that_is_closed_holds_up_nothing(pipes):
    os.dup2(os.open("/dev/full", os.O_WRONLY), pipes.target)  # each write to it fails
    for _ in range(50):
        os.write(pipes.write_end, b"x" * 4096)
        pipes.turn()
    assert pipes.turn() == 0
