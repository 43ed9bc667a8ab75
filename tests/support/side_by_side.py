"""`pytest --side-by-side`: three processes for one session, since most of every test is a wait.

The first runs the tests over the machine's engine; another those that have an engine of their own, and the unit tests;
the last one all others, which need no engine. Their reports count as the session's own: one summary, one table of
failures, one exit status. Where there is but one processor, or one kind of tests, all run in one process.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import SUPPRESS
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import IO, Any

import pytest

from support.checkout import TESTS
from support.reliability import TABLE, ReliabilityTable

_COMPLETE = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
"""Exit statuses of a session that has run tests to its end."""
_STOP_SECONDS = 120
"""For another process to end: an engine may have to stop an orchestrator with its runs."""
_SHOWN = 4000
"""Characters of another process's output, where it did not."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--side-by-side",
        action="store_true",
        help="run three kinds of tests at the same time",
    )
    parser.addoption("--part", help=SUPPRESS)  # this is another process: its kind of tests
    parser.addoption("--reports-to", type=int, help=SUPPRESS)  # and the file descriptor for its reports


def pytest_configure(config: pytest.Config) -> None:
    if (kind := config.getoption("--part")) is not None:
        config.pluginmanager.register(_Other(config, kind))
    elif config.getoption("--side-by-side") and not config.option.collectonly and len(os.sched_getaffinity(0)) > 1:
        config.pluginmanager.register(_First(config))


def _kind(item: pytest.Item) -> str:
    """Each kind takes about as long as the others."""
    if item.get_closest_marker("own_engine") is not None:
        return "own_engine"
    if item.get_closest_marker("engine") is not None:
        return "engine"
    return "own_engine" if item.path.is_relative_to(TESTS / "unit") else "no_engine"


class _Other:
    """In another process: sends its reports, then its reliability figures."""

    def __init__(self, config: pytest.Config, kind: str) -> None:
        descriptor: int = config.getoption("--reports-to")
        os.set_inheritable(descriptor, False)
        self._config = config
        self._kind = kind
        self._first = Connection(descriptor, readable=False)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # From the last module to the first: else two processes would begin with building the same images.
        places = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
        items[:] = [item for item in items if _kind(item) == self._kind]
        items.sort(key=lambda item: -places[item.path])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._first.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_sessionfinish(self) -> None:
        self._first.send(self._config.stash[TABLE])


@dataclass
class _Started:
    """Another process, as the first one knows it."""

    kind: str
    process: subprocess.Popen[bytes]
    output: IO[str]
    complete: bool = False
    """Its last message has come."""
    ended: set[str] = field(default_factory=set)
    """The tests whose teardown it has reported."""


class _First:
    """In the first process: starts the others, and takes in their reports after each test of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._beside: Counter[str] = Counter()
        """Kind → number of tests that another process runs."""
        self._sending: list[_Started] = []
        self._messages: SimpleQueue[tuple[_Started, Any]] = SimpleQueue()
        """With None where it sends no more."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kinds = Counter(map(_kind, items))
        own = "engine" if "engine" in kinds else next(iter(kinds), None)
        items[:] = [item for item in items if _kind(item) == own]
        self._beside = Counter({kind: number for kind, number in kinds.items() if kind != own})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        session.testscollected += self._beside.total()
        with ExitStack() as stack:
            others = [stack.enter_context(self._started(kind)) for kind in self._beside]
            self._sending += others
            result = yield
            while self._sending:
                self._take_in(*self._messages.get())
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
            for other in others:
                self._assert_complete(other)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        result = yield
        with suppress(Empty):
            while True:
                self._take_in(*self._messages.get_nowait())
        return result

    @contextmanager
    def _started(self, kind: str) -> Iterator[_Started]:
        reports, writing = Pipe(duplex=False)
        invocation = self._config.invocation_params
        arguments = [*map(str, invocation.args), f"--part={kind}", f"--reports-to={writing.fileno()}"]
        if folder := self._config.option.basetemp:  # each empties its own
            arguments.append(f"--basetemp={folder}-{kind}")
        with tempfile.TemporaryFile("w+") as output:
            with writing:
                process = subprocess.Popen(
                    [sys.executable, "-m", "pytest", *arguments],
                    cwd=invocation.dir,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[writing.fileno()],
                    process_group=0,  # Ctrl-C is for the first, which passes it on
                )
            other = _Started(kind, process, output)
            threading.Thread(target=self._receive, args=(other, reports), daemon=True).start()
            try:
                yield other
            finally:
                end(process, within=_STOP_SECONDS)

    def _receive(self, other: _Started, reports: Connection) -> None:
        with reports, suppress(OSError, EOFError):
            while True:
                self._messages.put((other, reports.recv()))
        self._messages.put((other, None))

    def _take_in(self, other: _Started, message: Any) -> None:
        if message is None or isinstance(message, ReliabilityTable):
            if other in self._sending:
                self._sending.remove(other)
            if message is not None:
                other.complete = True
                self._config.stash[TABLE].add(message)
            return
        hook = self._config.hook
        report = hook.pytest_report_from_serializable(config=self._config, data=message)
        if report.when == "setup":
            hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
        hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            other.ended.add(report.nodeid)
            hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)

    def _assert_complete(self, other: _Started) -> None:
        expected, status = self._beside[other.kind], end_status(other.process, within=_STOP_SECONDS)
        if not other.complete or status not in _COMPLETE:
            reason = f"the process of the tests of kind {other.kind} ended with {status} before they did"
        elif len(other.ended) != expected:
            reason = f"the process of the tests of kind {other.kind} ran {len(other.ended)} of {expected}"
        else:
            return
        other.output.seek(0)
        text = other.output.read()[-_SHOWN:]
        pytest.exit(f"{reason}:\n{text}", returncode=pytest.ExitCode.INTERNAL_ERROR)


def end_status(process: subprocess.Popen[bytes], *, within: float) -> int | None:
    """The exit status of a process that is about to end by itself; None where it has not after so many seconds."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(within)
    return None


def end(process: subprocess.Popen[bytes], *, within: float) -> None:
    """End the leader of a process group: by SIGINT, so that it leaves nothing behind, and after so many seconds by
    SIGKILL, with its group.
    """
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    if end_status(process, within=within) is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
