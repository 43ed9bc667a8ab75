"""How a pull, or the hashing of a file, is shown: a bar in a terminal, a line now and then elsewhere; on stderr."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from orchestrator.cli.console import complain, errors
from orchestrator.cli.tables import format_duration
from orchestrator.formatting import format_size
from orchestrator.models.plan import part_of
from orchestrator.models.pull import Progress
from orchestrator.models.store import hash_file

_LINE_INTERVAL: Final = 10.0  # seconds between two lines where no bar can be drawn
_FIRST_LINE: Final = 2.0  # what is done before needs no line
_DONE: Final = {
    "present": "is here already",
    "fetched": "is fetched",
    "waited": "is fetched, by another pull",
}


class PullDisplay:
    """A context manager; implements `Reporter`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._drawn = errors.is_terminal and not errors.is_dumb_terminal
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not self._drawn,
        )
        self._task: TaskID | None = None
        self._shown = ("", "")
        """Label and phase of what is under way."""
        self._began = (0.0, 0)
        """When that began, and with how many bytes."""
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bars.stop()

    def progress(self, label: str, progress: Progress) -> None:
        now = self._clock()
        if self._shown != (label, progress.phase):
            self._clear()
            self._shown, self._began = (label, progress.phase), (now, progress.done)
            self._next_line = now + _FIRST_LINE
            self._task = self._bars.add_task(
                f"{label}: {progress.phase}", completed=progress.done, total=progress.total
            )
        if self._drawn and self._task is not None:
            self._bars.update(self._task, completed=progress.done, total=progress.total)
        elif now >= self._next_line:
            self._next_line = now + _LINE_INTERVAL
            errors.print(Text(f"{label}: {progress.phase}: {self._line(progress, now)}"), soft_wrap=True)

    def _line(self, progress: Progress, now: float) -> str:
        began, earlier = self._began
        rate = (progress.done - earlier) / (now - began) if now > began else 0.0
        line = f"{part_of(progress.done, progress.total)}, {format_size(int(rate))}/s"
        if progress.total is not None and rate > 0:
            line += f", {format_duration((progress.total - progress.done) / rate)} left"
        return line

    def note(self, label: str, sentence: str) -> None:
        errors.print(Text.assemble((label, "bold"), f": {sentence}"), soft_wrap=True)

    def hash(self, label: str, path: Path) -> str:
        """The SHA-256 of a file, hashed in view. Raises `OSError`."""
        return hash_file(path, lambda done, total: self.progress(label, Progress("checking", done, total)))

    def finished(self, label: str, how: str, size: int | None) -> None:
        self._clear()
        errors.print(
            Text.assemble((label, "bold"), f" {_DONE[how]}{'' if size is None else f' ({format_size(size)})'}")
        )

    def failed(self, label: str, sentence: str) -> None:
        self._clear()
        complain(label, sentence)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task, self._shown = None, ("", "")
