"""`keys`: API keys in the state folder. A running orchestrator applies a change within a second."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.access.key_store import KeyFileError, KeyStore
from orchestrator.access.keys import ApiKey, Role
from orchestrator.cli.console import complain, console, fail
from orchestrator.cli.settings import read_settings

keys = typer.Typer(help="Add, list and remove API keys in the state folder.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The key's name: who uses it, or for what.")]


@keys.command()
def add(
    name: Name,
    *,
    role: Annotated[
        Role, typer.Option(help="viewer: reads. operator: also runs tools, restarts and stops plugins.")
    ] = Role.VIEWER,
    days: Annotated[int | None, typer.Option(min=1, max=36500, help="Days until it expires; never by default.")] = None,
) -> None:
    """Create a key and print it. It cannot be shown again: only its hash is stored."""
    store = _store()
    try:
        first = not store.listed()
        key = store.add(name, role, None if days is None else datetime.now(UTC) + timedelta(days=days))
    except (KeyFileError, ValueError) as error:
        fail(str(error))
    print(key)  # noqa: T201 - raw and alone on stdout, for scripts
    if first:
        complain(
            "The first key",
            "from now on every call needs a key. The command line reads it from ORCHESTRATOR_API_KEY.",
            style="yellow",
        )


@keys.command("list")
def list_keys() -> None:
    """List the keys without their secrets."""
    found = _listed(_store())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "ROLE", "ENDS WITH", "CREATED", "EXPIRES"):
        table.add_column(heading)
    now = datetime.now(UTC)
    for key in found:
        expires = "" if key.expires is None else f"{key.expires:%Y-%m-%d}{' (expired)' if key.expired(now) else ''}"
        table.add_row(Text(key.name), key.role, Text(f"…{key.hint}"), f"{key.created:%Y-%m-%d}", expires)
    if found:
        console.print(table)
    else:
        complain("There are no keys", "every caller that reaches the orchestrator may use it.", style="yellow")


@keys.command()
def remove(name: Name) -> None:
    """Remove a key. Calls with it are refused within a second."""
    store = _store()
    try:
        found = store.remove(name)
    except KeyFileError as error:
        fail(str(error))
    if not found:
        fail(f"No key named {name!r}. `orchestrator keys list` lists all keys.")
    if not _listed(store):
        complain("That was the last key", "an orchestrator on loopback now needs no key.", style="yellow")


def _store() -> KeyStore:
    return KeyStore(read_settings().state_dir)


def _listed(store: KeyStore) -> list[ApiKey]:
    try:
        return store.listed()
    except KeyFileError as error:
        fail(str(error))
