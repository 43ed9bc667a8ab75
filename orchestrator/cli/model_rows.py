"""The models of all plugins as rows: what `models list` and `models verify` show."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import console
from orchestrator.formatting import format_size
from orchestrator.models.plan import PartialFile, Reference, part_of
from orchestrator.models.store import ModelStore

_COLOURS: Final = {"missing": "yellow", "partial": "cyan", "unused": "dim", "wrong": "bold red", "right": "green"}


@dataclass(frozen=True, slots=True)
class Declared:
    """A model of a manifest. `place`: where its path leads on this machine."""

    reference: Reference
    place: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One model of one plugin, or an unused file of the store, which has neither. Sizes in bytes."""

    plugin: str | None
    model: str | None
    file: str
    sha256: str | None
    size: int | None
    state: Literal["present", "missing", "partial", "unused", "right", "wrong"]
    where: Literal["store", "path"] | None
    path: str | None
    """On this machine; None where there is no complete file."""
    detail: str = ""

    @property
    def label(self) -> str:
        return f"{self.plugin}: {self.file}" if self.plugin else f"{self.file[:12]}…"


def model_rows(store: ModelStore, declared: Sequence[Declared], *, unused: bool) -> list[Row]:
    """The declared models; with `unused` also files of the store that none of them names."""
    partials = {partial.sha256: partial for partial in store.partials()}
    rows = [_row(store, model, partials.get(model.reference.sha256 or "")) for model in declared]
    if unused:
        named = {model.reference.sha256 for model in declared}
        rows += [
            Row(None, None, file.sha256, file.sha256, file.size, "unused", "store", str(store.find(file.sha256)))
            for file in store.files()
            if file.sha256 not in named
        ]
        rows += [
            Row(None, None, partial.sha256, None, partial.size, "partial", None, None, _how_far(partial))
            for partial in partials.values()
            if partial.sha256 not in named
        ]
    return rows


def _row(store: ModelStore, model: Declared, partial: PartialFile | None) -> Row:
    reference, place = model.reference, model.place
    of = (reference.plugin, reference.model, reference.path, reference.sha256)
    stored = None if reference.sha256 is None else store.find(reference.sha256)
    if stored is not None:
        return Row(*of, stored.stat().st_size, "present", "store", str(stored))
    if place.exists():
        return Row(*of, _size(place), "present", "path", str(place))
    if partial is not None:
        return Row(*of, partial.size, "partial", None, None, _how_far(partial))
    what = f"`orchestrator models pull {reference.plugin}` fetches it" if reference.urls else f"put it at {place}"
    return Row(*of, None, "missing", None, None, what)


def _how_far(partial: PartialFile) -> str:
    how_far = part_of(partial.size, partial.total)
    return f"{how_far}, being fetched" if partial.under_way else f"{how_far}; `orchestrator models pull` goes on"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def print_rows(rows: Iterable[Row]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("PLUGIN", "MODEL", "SIZE", "STATE"):
        table.add_column(name, no_wrap=True, justify="right" if name == "SIZE" else "left")
    table.add_column("WHERE", overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.plugin or "-"),
            Text(row.model or "-"),
            "" if row.size is None else format_size(row.size),
            Text(row.state, style=_COLOURS.get(row.state, "")),
            Text(" ".join(filter(None, (row.path, row.detail)))),
        )
    console.print(table)
