"""`keys`: who may call the API. Works on the state folder; a running orchestrator follows within a second."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.access.key_store import KeyFileError, KeyStore
from orchestrator.access.keys import ApiKey, Role
from orchestrator.cli import client
from orchestrator.cli.configured import read_settings
from orchestrator.cli.output import console

app = typer.Typer(help="API keys: who may call. Works on the state folder.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="What the key is called: who uses it, or for what.")]


@app.command()
def add(
    name: Name,
    *,
    role: Annotated[Role, typer.Option(help="viewer: reads. operator: runs, restarts and stops too.")] = Role.VIEWER,
    days: Annotated[int | None, typer.Option(min=1, max=36500, help="How long it counts; else for ever.")] = None,
) -> None:
    """Make a key and print it: this once, since only its hash is kept."""
    store = _store()
    try:
        first = not store.listed()
        key = store.add(name, role, None if days is None else datetime.now(UTC) + timedelta(days=days))
    except (KeyFileError, ValueError) as error:
        client.fail(str(error))
    print(key)  # noqa: T201 - raw, and alone on stdout, for scripts
    if first:
        client.complain(
            "The first key",
            "from now on every call needs one. The command line takes it from ORCHESTRATOR_API_KEY.",
            style="yellow",
        )


@app.command("list")
def list_keys() -> None:
    """The keys of the state folder. None of them can be shown again."""
    keys = _listed(_store())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "ROLE", "ENDS WITH", "MADE", "EXPIRES"):
        table.add_column(heading)
    now = datetime.now(UTC)
    for key in keys:
        expires = "" if key.expires is None else f"{key.expires:%Y-%m-%d}{' (expired)' if key.expired(now) else ''}"
        table.add_row(Text(key.name), key.role, Text(f"…{key.hint}"), f"{key.created:%Y-%m-%d}", expires)
    if keys:
        console.print(table)
    else:
        client.complain("There are no keys", "whoever reaches the orchestrator may call it.", style="yellow")


@app.command()
def remove(name: Name) -> None:
    """Take a key away: calls with it are refused within a second."""
    store = _store()
    try:
        found = store.remove(name)
    except KeyFileError as error:
        client.fail(str(error))
    if not found:
        client.fail(f"There is no key {name!r}. `orchestrator keys list` shows those there are.")
    if not _listed(store):
        client.complain("That was the last key", "a loopback orchestrator asks nobody for one now.", style="yellow")


def _store() -> KeyStore:
    return KeyStore(read_settings().state_dir)


def _listed(store: KeyStore) -> list[ApiKey]:
    try:
        return store.listed()
    except KeyFileError as error:
        client.fail(str(error))
