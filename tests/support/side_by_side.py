"""`pytest --side-by-side`: tests that need no engine run in a second process, beside those that need one.

Either kind waits for most of its time. Reports of the second process count as the session's own: one summary, one table
of failures, one exit status. Where there is but one processor, or one kind of tests, all run in one process.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import SUPPRESS
from collections.abc import Iterator
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import IO, Any

import pytest

from support.reliability import TABLE, Row

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
    """In the second process: sends its reports, a line each."""

    def __init__(self, config: pytest.Config, descriptor: int) -> None:
        self._config = config
        self._lines = os.fdopen(descriptor, "w")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not _needs_engine(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._send(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_sessionfinish(self) -> None:
        # The last message: without it the process broke off.
        self._send(rows=[asdict(row) for row in self._config.stash[TABLE].rows.values()])

    def _send(self, **message: Any) -> None:
        self._lines.write(json.dumps(message) + "\n")
        self._lines.flush()


class _First:
    """In the first process: starts the second, and takes in its reports after each test of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._beside = 0
        """How many tests the second process runs."""
        self._whole = False
        """It has come to its end."""
        self._messages: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        """None: the second process has closed its end."""

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
                while (message := self._messages.get()) is not None:
                    self._take_in(message)
                    if session.shouldfail:
                        raise session.Failed(session.shouldfail)
                if not self._whole:
                    output.seek(0)
                    said = output.read()[-_SHOWN:]
                    reason = f"the second process ended with {process.wait()} before its tests did:\n{said}"
                    pytest.exit(reason, returncode=pytest.ExitCode.INTERNAL_ERROR)
            finally:
                process.send_signal(signal.SIGINT)  # where it has not ended: it leaves nothing behind
                process.wait()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        result = yield
        try:
            while (message := self._messages.get_nowait()) is not None:
                self._take_in(message)
            self._messages.put(None)  # for the end of the loop
        except Empty:
            pass
        return result

    def _start(self, output: IO[str]) -> subprocess.Popen[bytes]:
        reading, writing = os.pipe()
        invocation = self._config.invocation_params
        arguments = [*map(str, invocation.args), f"--reports-to={writing}"]
        if folder := self._config.option.basetemp:  # each empties its own
            arguments.append(f"--basetemp={folder}-2")
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=invocation.dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
        )
        os.close(writing)
        threading.Thread(target=self._receive, args=(reading,), daemon=True).start()
        return process

    def _receive(self, reading: int) -> None:
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.endswith("\n"):  # else it broke off there
                    self._messages.put(json.loads(line))
        self._messages.put(None)

    def _take_in(self, message: dict[str, Any]) -> None:
        if "rows" in message:
            self._whole = True
            for row in message["rows"]:
                self._config.stash[TABLE].add(Row(**row))
            return
        hook = self._config.hook
        report = hook.pytest_report_from_serializable(config=self._config, data=message["report"])
        if report.when == "setup":
            hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
        hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
