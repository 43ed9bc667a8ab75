"""What is run on each engine, and what came of it."""

import dataclasses
import itertools
import os
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from platforms.rooms import PROJECT, Room

MAX_FAULTS = 40
"""Messages of failed tests that are kept for each cell."""


@dataclass(frozen=True)
class Cell:
    """What one column gave on one row: counts and a date, or why it was not run."""

    date: str
    """UTC, to the minute."""
    commit: str
    """With a `+` where the checkout had changes."""
    seconds: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    not_run: str = ""
    """Why it was not run, or was broken off."""
    faults: tuple[str, ...] = ()
    """A test that failed, how many others did with the same message, and its first line."""

    def document(self) -> dict[str, object]:
        """Without what says nothing."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in ("", ())}


@dataclass(frozen=True)
class Column:
    """One kind of proof."""

    title: str
    measure: Callable[[Room, Path, float], Cell]
    seconds: float
    """How long it may take natively."""


def commit() -> str:
    git = ["git", "-C", str(PROJECT)]
    head = subprocess.run([*git, "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":!tests/platforms"], check=False).returncode
    return head.stdout.strip() + ("+" if changed else "")


def not_run(why: str) -> Cell:
    return Cell(_now(), commit(), not_run=why)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def suite(*paths: str, select: str = "engine") -> Callable[[Room, Path, float], Cell]:
    """Tests, counted from pytest's own report."""

    def measure(room: Room, log: Path, seconds: float) -> Cell:
        report = log.with_suffix(".xml")
        report.unlink(missing_ok=True)
        command = [".venv/bin/pytest", "-m", select, "-p", "no:cacheprovider", "-q", *paths]
        command += [f"--junitxml={room.inside(report)}"]
        started = time.monotonic()
        date = _now()
        status = room.run(command, log=log, seconds=seconds)
        return read_report(report, Cell(date, commit(), round(time.monotonic() - started)), status, seconds)

    return measure


def read_report(report: Path, cell: Cell, status: int | None, seconds: float) -> Cell:
    """Fill in the counts of a report of pytest's. Where it did not come to its own end, they stand in the reason."""
    why = f"broken off after {seconds:.0f} s" if status is None else f"pytest ended with status {status}"
    if not report.exists():
        return dataclasses.replace(cell, not_run=why)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    faults: dict[str, list[str]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = any(child.tag == "skipped" for child in case)
        counts["failed" if fault is not None else "skipped" if skipped else "passed"] += 1
        if fault is not None:
            first = (fault.get("message") or "").strip().partition("\n")[0]
            faults.setdefault(first[:200], []).append(case.get("name") or "")
    listed = (f"{names[0]}{_and_others(len(names) - 1)}: {message}" for message, names in faults.items())
    found = dataclasses.replace(cell, **counts, faults=tuple(itertools.islice(listed, MAX_FAULTS)))
    if status in (0, 1):
        return found
    return dataclasses.replace(found, not_run=f"{why}: {found.passed} passed, {found.failed} failed until then")


def _and_others(count: int) -> str:
    return f" and {count} more" if count else ""


def make_up(room: Room, log: Path, seconds: float) -> Cell:
    """`make up` with folders and a port of its own, which reads a scanned page; then what it started is taken down."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    state = room.inside(log.with_suffix(".state"))
    own = [
        f"ORCHESTRATOR_PORT={port}",
        f"ORCHESTRATOR_STATE_DIR={state}",
        f"ORCHESTRATOR_RUN_DIR=/tmp/po-up-{os.getpid()}",
    ]
    started = time.monotonic()
    date = _now()
    status = room.run(["env", *own, "make", "up"], log=log, seconds=seconds)
    took = round(time.monotonic() - started)
    room.run(["env", *own, ".venv/bin/orchestrator", "down"], log=log, seconds=120)
    cell = Cell(date, commit(), took)
    if status == 0:
        return dataclasses.replace(cell, passed=1)
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-12:]
    why = f"broken off after {seconds:.0f} s" if status is None else f"status {status}"
    return dataclasses.replace(cell, failed=1, faults=(f"make up: {why}: {' / '.join(last)[:600]}",))


COLUMNS = {
    "contract": Column("engine contract", suite("tests/engine/containers"), 600),
    "fixtures": Column(
        "fault fixtures' verdicts",
        suite(
            "tests/engine/test_fixture_plugins.py",
            "tests/engine/faults/test_verdicts.py",
            "tests/engine/faults/test_container_faults.py",
        ),
        1200,
    ),
    "escape": Column("escape probe", suite("tests/engine/security"), 600),
    "adoption": Column(
        "adoption",
        suite(
            "tests/engine/end_to_end/test_process.py",
            "tests/engine/end_to_end/test_runs_after_a_kill.py",
            "tests/engine/end_to_end/test_lookalikes.py",
        ),
        900,
    ),
    "compose": Column("compose v2", suite("tests/engine/test_compose.py"), 900),
    "up": Column("`make up`", make_up, 1500),
}
"""Name on the command line → what it measures."""
