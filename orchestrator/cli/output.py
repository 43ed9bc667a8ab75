"""How commands print, and the options that many of them have."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.cli import client
from orchestrator.client import ApiError, Client

console = Console(highlight=False, emoji=False)


def complete_plugin(incomplete: str) -> list[str]:
    """The plugins' names, for the shell; none where no orchestrator answers."""
    try:
        with Client(client.address(), retries=0) as api:
            return [plugin["name"] for plugin in api.plugins() if plugin["name"].startswith(incomplete)]
    except ApiError:
        return []


def complete_tool(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the tools of the plugin that stands before."""
    try:
        with Client(client.address(), retries=0) as api:
            return [tool["name"] for tool in api.tools(ctx.params["plugin"]) if tool["name"].startswith(incomplete)]
    except (ApiError, KeyError):
        return []


Name = Annotated[str, typer.Argument(help="The plugin's name.", autocompletion=complete_plugin)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
Wait = Annotated[float, typer.Option(min=0, max=600, help="Seconds to wait for the new instance's outcome.")]


def called_as() -> str:
    """How this program is called in a shell here: by its name where that finds it, else by its path."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    return program.name if found is not None and Path(found).samefile(program) else os.path.relpath(program)


def show_json(content: Any) -> None:
    console.print_json(json.dumps(content, ensure_ascii=False))


def print_raw(text: str, end: str = "\n") -> None:
    """As it is: neither markup nor wrapped."""
    print(text, end=end, flush=True)  # noqa: T201


def print_line(content: Any) -> None:
    """One JSON value a line, for programs that read a stream."""
    print_raw(json.dumps(content, ensure_ascii=False))


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Says on a terminal that something takes its time."""
    with client.errors.status(escape(what)) if client.errors.is_terminal else _quiet():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    yield
