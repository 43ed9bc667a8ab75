"""What was found, in a file that is kept with the project, and the table of it."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from platforms.columns import COLUMNS, Cell
from platforms.rows import ROWS

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
README = FOLDER / "README.md"
BEGIN, END = "<!-- results: written by make test-platforms -->\n", "<!-- end of results -->\n"

Results = dict[str, dict[str, Any]]
"""Row → `engine`: what the engine said of itself, and `cells`: column → cell."""


def load(file: Path = RESULTS) -> Results:
    return json.loads(file.read_text()) if file.exists() else {}


def record(row: str, engine: dict[str, str], column: str, cell: Cell, file: Path = RESULTS) -> None:
    """Keep a cell in place of what was known before."""
    results = load(file)
    entry = results.setdefault(row, {"engine": {}, "cells": {}})
    entry["engine"].update(engine)
    entry["cells"][column] = cell.document()
    ordered = {name: results[name] for name in ROWS if name in results}
    file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def table(results: Results, rows: Collection[str] = tuple(ROWS)) -> str:
    """Markdown: a line for each of these rows, and below it each test that failed."""
    titles = ["row", "engine", "version", "cgroup", "how it is had", *(column.title for column in COLUMNS.values())]
    lines = [_line(titles), "|" + "---|" * len(titles)]
    for name, row in ((name, row) for name, row in ROWS.items() if name in rows):
        entry = results.get(name, {"engine": {}, "cells": {}})
        engine, cells = entry["engine"], entry["cells"]
        facts = [f"`{name}`", row.about, engine.get("version", "?"), engine.get("cgroup", "?"), row.how]
        lines.append(_line([*facts, *(_text(cells.get(column), row.not_for.get(column)) for column in COLUMNS)]))
    faults = [
        f"- `{name}`, {COLUMNS[column].title}: {_code(fault)}"
        for name, entry in results.items()
        for column, cell in entry["cells"].items()
        for fault in cell.get("faults", ())
        if name in rows and column in COLUMNS
    ]
    listed = ["", "What failed:", "", *faults] if faults else []
    return "\n".join([*lines, *listed]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(fault: str) -> str:
    test, _, message = fault.partition(": ")
    return f"`{test}`: {message}".rstrip(": ").replace("<", "&lt;")


def _text(cell: dict[str, Any] | None, never: str | None) -> str:
    if cell is None:
        return f"not run: {never or 'not yet'}"
    if "not_run" in cell:
        return f"not run: {cell['not_run']} ({cell['date'][:10]})"
    counts = [f"{cell[name]} {name}" for name in ("passed", "failed", "skipped") if cell[name]]
    return f"{', '.join(counts) or 'nothing collected'} ({cell['date'][:10]}, {cell['seconds']} s)"


def write_table(results: Results, page: Path = README) -> None:
    """Put the table into the page, between its marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + "\n" + table(results) + "\n" + END + after)
