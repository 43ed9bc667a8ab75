"""The command line's way to the HTTP API; turns what goes wrong into one sentence and an exit code."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import httpx
import typer
from rich.console import Console
from rich.text import Text

from orchestrator.client import (
    AccessDenied,
    ApiError,
    Client,
    PluginUnavailable,
    TooManyRequests,
    UnexpectedAnswer,
    Unreachable,
)

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_BUSY: Final = 5
EXIT_DENIED: Final = 6

logging.getLogger("stamina").setLevel(logging.ERROR)  # that a stream is asked for again is no news

errors = Console(stderr=True, highlight=False, emoji=False)


def address() -> str:
    """Where the orchestrator is: ORCHESTRATOR_URL, else the host and port that `serve` would take."""
    host = os.environ.get("ORCHESTRATOR_HOST", "127.0.0.1")
    port = os.environ.get("ORCHESTRATOR_PORT", "8000")
    return os.environ.get("ORCHESTRATOR_URL", f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}")


def credentials() -> dict[str, str]:
    """The headers that say who calls: the key in ORCHESTRATOR_API_KEY, where there is one."""
    key = os.environ.get("ORCHESTRATOR_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def connected() -> Iterator[Client]:
    """A client. Whatever goes wrong with it leaves the program with a sentence; nothing is tried twice, since somebody
    waits.
    """
    with explained(), Client(_callable(address()), retries=0) as client:
        yield client


def _callable(url: str) -> str:
    """The address as it is; leaves the program where nothing could be called by it."""
    try:
        parsed = httpx.URL(url)
        fits = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        fits = False
    if not fits:
        by = "ORCHESTRATOR_URL" if "ORCHESTRATOR_URL" in os.environ else "ORCHESTRATOR_HOST, ORCHESTRATOR_PORT"
        misused(by, f"{url!r} is no address such as http://127.0.0.1:8000")
    return url


@contextmanager
def explained() -> Iterator[None]:
    """Leaves the program with a sentence and the exit code that belongs to it."""
    try:
        yield
    except ApiError as error:
        tell(error)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def exit_code(error: ApiError) -> int:
    match error:
        case Unreachable():
            return EXIT_UNREACHABLE
        case PluginUnavailable():
            return EXIT_UNAVAILABLE
        case TooManyRequests():
            return EXIT_BUSY
        case AccessDenied():
            return EXIT_DENIED
        case _:
            return EXIT_FAILED


def tell(error: ApiError) -> None:
    """What went wrong, and where it is not plain what to do, that too."""
    match error:
        case Unreachable() if error.__cause__ is not None:
            hint = f"Start one with `orchestrator serve` (or `make up`), or set ORCHESTRATOR_URL (now {address()})."
            errors.print(Text.assemble((str(error), "red"), f". {hint}"), soft_wrap=True)
        case Unreachable() | UnexpectedAnswer():
            errors.print(Text.assemble((str(error), "red"), f" ({address()})"), soft_wrap=True)
        case _:
            complain(error.code, str(error))


def fail(sentence: str) -> NoReturn:
    errors.print(Text(sentence, style="red"), soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


def misused(subject: str, sentence: str) -> NoReturn:
    """For arguments of the command line that cannot be."""
    complain(subject, sentence)
    raise typer.Exit(EXIT_USAGE)


def complain(subject: str, sentence: str, style: str = "red") -> None:
    """`subject: sentence` on stderr. Both may be anybody's words: what looks like markup in them is text."""
    errors.print(Text.assemble((subject, style), f": {sentence}"), soft_wrap=True)
