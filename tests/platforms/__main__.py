"""`make test-platforms ARGS="docker-26 --columns contract"`: run the columns on the rows, keep what came of it."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from platforms import results
from platforms.columns import COLUMNS, Cell, not_run
from platforms.rooms import NotHadError, Room
from platforms.rows import ROWS, Row

LOGS = Path("build/platforms")


def main() -> int:
    """Return the exit code: 1 if a test failed or a row could not be had."""
    rows, columns = _arguments()
    # Also where a shell started this in the background, which ignores SIGINT: engines and guests are taken down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    LOGS.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in rows:
        bad += _run_row(name, ROWS[name], columns)
        results.write_table(results.load())
    print(results.table(results.load(), rows))
    return 1 if bad else 0


def _run_row(name: str, row: Row, columns: Sequence[str]) -> int:
    """Run the columns on one engine; whatever happens to it, the next row follows. Returns how many cells are bad."""
    wanted = [column for column in columns if column not in row.not_for]
    for column in set(columns) - set(wanted):
        results.record(name, {}, column, not_run(row.not_for[column]))
    if not wanted:
        return 0
    _say(f"{name}: bringing up {row.about}")
    left = list(wanted)
    bad = 0
    try:
        with row.enter() as room:
            engine = _describe(room, name)
            _say(f"{name}: {engine['version']}, cgroup {engine['cgroup']}")
            for column in wanted:
                cell = _run_column(room, name, row, column)
                results.record(name, engine, column, cell)
                left.remove(column)
                bad += bool(cell.failed or cell.not_run)
    except KeyboardInterrupt:
        raise
    # pytest's own outcome is no Exception: a fixture of the tests, used here, skips where it can fetch nothing.
    except (Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - the other rows can still be run
        why = (
            str(error)
            if isinstance(error, (NotHadError, pytest.skip.Exception))
            else f"{type(error).__name__}: {error}"
        )
        _say(f"{name}: {why}")
        for column in left:
            results.record(name, {}, column, not_run(" ".join(why.split())[:300]))
        bad += len(left)
    return bad


def _run_column(room: Room, name: str, row: Row, column: str) -> Cell:
    log = (LOGS / f"{name}.{column}.log").absolute()
    log.unlink(missing_ok=True)
    seconds = COLUMNS[column].seconds * row.patience
    _say(f"{name}: {column} (at most {seconds:.0f} s; log: {log.relative_to(Path.cwd())})")
    started = time.monotonic()
    cell = COLUMNS[column].measure(room, log, seconds)
    _say(
        f"{name}: {column}: {cell.not_run or f'{cell.passed} passed, {cell.failed} failed, {cell.skipped} skipped'} "
        f"in {time.monotonic() - started:.0f} s"
    )
    for fault in cell.faults:
        _say(f"    {fault}")
    return cell


def _describe(room: Room, name: str) -> dict[str, str]:
    """What the engine says of itself. Raises NotHadError if it does not answer."""
    log = (LOGS / f"{name}.engine.log").absolute()
    log.unlink(missing_ok=True)
    code = (
        "import docker, json; e = docker.from_env(); i = e.info(); v = e.version(); "
        "cgroup = 'v' + i.get('CgroupVersion', '1') + ', ' + i['CgroupDriver']; "
        "security = ' '.join(i.get('SecurityOptions') or []); "
        "print(json.dumps({'version': v['Version'], 'cgroup': cgroup, 'storage': i['Driver'], 'security': security}))"
    )
    status = room.run([".venv/bin/python", "-c", code], log=log, seconds=300)
    text = log.read_text(errors="replace").strip()
    if status != 0:
        raise NotHadError(f"the engine does not answer: {text[-300:]}")
    described: dict[str, str] = json.loads(text.splitlines()[-1])
    return described


def _arguments() -> tuple[list[str], list[str]]:
    listed = "\n".join(f"  {name:<18} {row.about}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        "make test-platforms", description=f"rows:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run; by default all")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="by default all")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    parsed = parser.parse_args()
    if unknown := [name for name in parsed.rows if name not in ROWS]:
        parser.error(f"no row named {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    rows = [name for name in ROWS if name in parsed.rows] or list(ROWS)
    if parsed.table:
        results.write_table(results.load())
        sys.exit(0)
    return rows, [name for name in COLUMNS if name in parsed.columns]


def _say(text: str) -> None:
    print(f"platforms: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
