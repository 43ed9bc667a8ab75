"""`pytest --side-by-side`: tests that need no engine run in a second process, beside those that need one.

Either kind waits for most of its time. Reports of the second process count as the session's own: one summary, one table
of failures, one exit status. Where there is but one processor, or one kind of tests, all run in one process.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import IO, Any

import pytest

from support.reliability import TABLE, ReliabilityTable

_COMPLETE = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}
"""Exit statuses of a session that came to its end."""

_SHOWN = 4000
"""Characters of the second process's output, where it did not."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--side-by-side",
        action="store_true",
        help="run the tests that need no engine in a second process, beside those that need one",
    )
    parser.addoption("--reports-to", type=int, help=SUPPRESS)  # a file descriptor: this is the second process


def pytest_configure(config: pytest.Config) -> None:
    if (descriptor := config.getoption("--reports-to")) is not None:
        config.pluginmanager.register(_Second(config, descriptor))
    elif config.getoption("--side-by-side") and not config.option.collectonly and len(os.sched_getaffinity(0)) > 1:
        config.pluginmanager.register(_First(config))


def _needs_engine(item: pytest.Item) -> bool:
    return item.get_closest_marker("engine") is not None


class _Second:
    """In the second process: sends its reports, then its reliability figures."""

    def __init__(self, config: pytest.Config, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._config = config
        self._first = Connection(descriptor, readable=False)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not _needs_engine(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._first.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_sessionfinish(self) -> None:
        self._first.send(self._config.stash[TABLE])


class _First:
    """In the first process: starts the second, and takes in its reports after each test of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._beside = 0
        """How many tests the second process runs."""
        self._ended = False
        """All its messages have come."""
        self._messages: SimpleQueue[Any] = SimpleQueue()
        """None: it sends no more."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        engine = [item for item in items if _needs_engine(item)]
        if 0 < len(engine) < len(items):
            self._beside = len(items) - len(engine)
            items[:] = engine

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        if not self._beside:
            return (yield)
        session.testscollected += self._beside
        with tempfile.TemporaryFile("w+") as output:
            process = self._start(output)
            try:
                result = yield
                while not self._ended and (message := self._messages.get()) is not None:
                    self._take_in(message)
                    if session.shouldfail:
                        raise session.Failed(session.shouldfail)
                status = process.wait()
                if not self._ended or status not in _COMPLETE:
                    output.seek(0)
                    reason = f"the second process ended with {status} before its tests did:\n{output.read()[-_SHOWN:]}"
                    pytest.exit(reason, returncode=pytest.ExitCode.INTERNAL_ERROR)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)  # it leaves nothing behind
                process.wait()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        result = yield
        with suppress(Empty):
            while (message := self._messages.get_nowait()) is not None:
                self._take_in(message)
            self._messages.put(None)  # for the end of the loop
        return result

    def _start(self, output: IO[str]) -> subprocess.Popen[bytes]:
        reports, second = Pipe(duplex=False)
        invocation = self._config.invocation_params
        arguments = [*map(str, invocation.args), f"--reports-to={second.fileno()}"]
        if folder := self._config.option.basetemp:  # each empties its own
            arguments.append(f"--basetemp={folder}-2")
        with second:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *arguments],
                cwd=invocation.dir,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[second.fileno()],
                process_group=0,  # Ctrl-C is for the first, which passes it on
            )
        threading.Thread(target=self._receive, args=(reports,), daemon=True).start()
        return process

    def _receive(self, reports: Connection) -> None:
        with reports, suppress(OSError, EOFError):
            while True:
                self._messages.put(reports.recv())
        self._messages.put(None)

    def _take_in(self, message: Any) -> None:
        if isinstance(message, ReliabilityTable):
            self._config.stash[TABLE].add(message)
            self._ended = True
            return
        hook = self._config.hook
        report = hook.pytest_report_from_serializable(config=self._config, data=message)
        if report.when == "setup":
            hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
        hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
