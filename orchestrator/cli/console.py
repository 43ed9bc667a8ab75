"""Terminal output, error messages with their exit codes, and the --json option."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_BUSY: Final = 5
EXIT_DENIED: Final = 6

_LINE_INTERVAL: Final = 15.0  # seconds between two lines of what goes on, where they stay

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]


def show_json(content: Any) -> None:
    console.print_json(json.dumps(content, ensure_ascii=False))


def print_raw(text: str, end: str = "\n") -> None:
    """Print text unchanged: no markup, no wrapping."""
    print(text, end=end, flush=True)  # noqa: T201


def print_line(content: Any) -> None:
    """Print one JSON value on one line, for programs that read a stream."""
    print_raw(json.dumps(content, ensure_ascii=False))


def fail(sentence: str) -> NoReturn:
    errors.print(Text(sentence, style="red"), soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


def misused(subject: str, sentence: str) -> NoReturn:
    """Report wrong command line arguments and exit."""
    complain(subject, sentence)
    raise typer.Exit(EXIT_USAGE)


def complain(subject: str, sentence: str, style: str = "red") -> None:
    """Print `subject: sentence` on stderr."""
    # Both may come from a plugin or a caller, so neither is read as markup.
    errors.print(Text.assemble((subject, style), f": {sentence}"), soft_wrap=True)


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with `what` while the block runs. Yields the function that shows another text in its place.

    Where stderr is no terminal, only such a text is printed: the first at once, then one every fifteen seconds.
    """
    if not errors.is_terminal:
        yield _Occasionally().say
        return
    with errors.status(escape(what)) as status:
        yield lambda text: status.update(escape(" ".join(text.split())[: max(10, errors.width - 4)]))


class _Occasionally:
    """Prints a text unless the last one has just been printed."""

    def __init__(self) -> None:
        self._next = 0.0

    def say(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_INTERVAL
            errors.print(Text(text), soft_wrap=True)


def program_name() -> str:
    """How to call this program from the current shell: its name if it is on the PATH, else its path."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    return program.name if found is not None and Path(found).samefile(program) else os.path.relpath(program)
