"""`keys`: API keys in the state folder. A running orchestrator applies a change within a second."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Final, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.access.key_store import KeyFileError, KeyStore
from orchestrator.access.keys import ApiKey, Role
from orchestrator.access.principal import (
    EQUAL_SHARE,
    MAX_WEIGHT,
    Grant,
    Priority,
    Rate,
    Right,
    Share,
    plugin_patterns,
)
from orchestrator.cli.console import complain, console, fail, misused
from orchestrator.cli.settings import read_settings
from orchestrator.formatting import quoted
from orchestrator.loader.plugin_loader import PluginLoader

T = TypeVar("T")

keys = typer.Typer(help="Add, list, change and remove API keys in the state folder.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The key's name: who uses it, or for what.")]
AsRole = Annotated[
    Role | None, typer.Option("--role", help="viewer: reads. operator: also runs tools, restarts and stops plugins.")
]
May = Annotated[
    str | None,
    typer.Option(
        metavar="RIGHTS",
        help="Instead of a role: of read, run and operate, separated by commas. run and operate bring read.",
    ),
]
Plugins = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERNS", help="Only these plugins, such as 'det-*,ocr'; others do not exist for it. '*' for all."
    ),
]
OfPriority = Annotated[
    Priority | None, typer.Option("--priority", help="Whose runs a busy plugin takes first: high, normal or low.")
]
Weight = Annotated[
    int | None, typer.Option(min=1, max=MAX_WEIGHT, help="2: twice the runs of a key of weight 1 and its priority.")
]
Concurrency = Annotated[
    int | None, typer.Option(min=0, help="How many of its runs may execute at once; others wait. 0: no bound.")
]
OfRate = Annotated[
    str | None, typer.Option("--rate", metavar="RATE", help="Runs in a time: 10/s, 60/min, 1000/h. none: no bound.")
]
Days = Annotated[int | None, typer.Option(min=1, max=36500, help="Days until it expires; never by default.")]


_MAX_NAMED: Final = 10  # plugins that a warning lists
_UNKNOWN: Final = "No key named {name!r}. `orchestrator keys list` lists all keys."


@keys.command()
def add(
    name: Name,
    *,
    role: AsRole = None,
    may: May = None,
    plugins: Plugins = None,
    priority: OfPriority = None,
    weight: Weight = None,
    concurrency: Concurrency = None,
    rate: OfRate = None,
    days: Days = None,
    by_proxy: Annotated[
        bool, typer.Option("--by-proxy", help="Make no key: a user whom a trusted proxy names (see its settings).")
    ] = False,
) -> None:
    """Create a key and print it. It cannot be shown again: only its hash is stored. It is a viewer's by default."""
    store = _store()
    grant = _granted(Role.VIEWER.grant, role, may, plugins, _shared(EQUAL_SHARE, priority, weight, concurrency, rate))
    try:
        first = not store.listed()
        if by_proxy:
            store.add_user(name, grant, _expiry(days))
        else:
            key = store.add(name, grant, _expiry(days))
    except (KeyFileError, ValueError) as error:
        fail(str(error))
    if not by_proxy:
        print(key)  # noqa: T201 - raw and alone on stdout, for scripts
    if first:
        complain(
            "The first key",
            "from now on every call needs a key. The command line reads it from ORCHESTRATOR_API_KEY.",
            style="yellow",
        )


@keys.command()
def change(
    name: Name,
    *,
    role: AsRole = None,
    may: May = None,
    plugins: Plugins = None,
    priority: OfPriority = None,
    weight: Weight = None,
    concurrency: Concurrency = None,
    rate: OfRate = None,
    days: Days = None,
) -> None:
    """Change what a key may do, from the next call on: what is given, nothing else. The key itself stays the same."""

    def changed(key: ApiKey) -> ApiKey:
        share = _shared(key.grant.share, priority, weight, concurrency, rate)
        grant = _granted(key.grant, role, may, plugins, share)
        return replace(key, grant=grant, expires=key.expires if days is None else _expiry(days))

    if all(each is None for each in (role, may, plugins, priority, weight, concurrency, rate, days)):
        fail("Nothing to change is given. `orchestrator keys change --help` lists what can be.")
    try:
        found = _store().change(name, changed)
    except (KeyFileError, ValueError) as error:
        fail(str(error))
    if found is None:
        fail(_UNKNOWN.format(name=name))


@keys.command("list")
def list_keys() -> None:
    """List the keys without their secrets."""
    found = _listed(_store())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "MAY", "PLUGINS", "SHARE", "ENDS WITH", "CREATED", "EXPIRES"):
        table.add_column(heading)
    now = datetime.now(UTC)
    for key in found:
        expires = "" if key.expires is None else f"{key.expires:%Y-%m-%d}{' (expired)' if key.expired(now) else ''}"
        may = key.role or ",".join(right for right in Right if right in key.grant.rights)
        table.add_row(
            Text(key.name),
            may,
            Text(",".join(key.grant.plugins)),
            _share_words(key.grant.share),
            "by proxy" if key.by_proxy else Text(f"…{key.hint}"),
            f"{key.created:%Y-%m-%d}",
            expires,
        )
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
        fail(_UNKNOWN.format(name=name))
    if not _listed(store):
        complain("That was the last key", "an orchestrator on loopback now needs no key.", style="yellow")


def _granted(grant: Grant, role: Role | None, may: str | None, plugins: str | None, share: Share) -> Grant:
    """`grant` with what is given; exits where that is none."""
    if role is not None and may is not None:
        misused("--may", "give either --role or --may: a role is a name for rights")
    rights = grant.rights
    if role is not None:
        rights = role.rights
    elif may is not None:
        rights = _parsed("--may", _rights, may)
    patterns = grant.plugins
    if plugins is not None:
        patterns = _parsed("--plugins", plugin_patterns, plugins)
        _warn_of_strangers(patterns)
    return Grant(rights, patterns, share)


def _parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    """What an option means; exits where it means nothing."""
    try:
        return parse(text)
    except ValueError as error:
        misused(option, str(error))


def _warn_of_strangers(patterns: Iterable[str]) -> None:
    """Say which patterns match no plugin here. They may be meant for plugins to come."""
    names = [plugin.name for plugin in PluginLoader(read_settings().plugins_dirs).discover()]
    # Without any this is another folder, or another machine, than the orchestrator's.
    for pattern in patterns if names else ():
        if not any(fnmatchcase(name, pattern) for name in names):
            known = ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
            sentence = f"no plugin matches {quoted(pattern)} now; there are {known} (ORCHESTRATOR_PLUGINS_DIRS)"
            complain("--plugins", sentence, style="yellow")


def _rights(text: str) -> frozenset[Right]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names or not set(names) <= set(Right):
        raise ValueError(f"expected rights of {', '.join(Right)}, separated by commas, not {quoted(text)}")
    return frozenset(map(Right, names))


def _shared(
    share: Share, priority: Priority | None, weight: int | None, concurrency: int | None, rate: str | None
) -> Share:
    """`share` with what is given; exits where that is none."""
    if concurrency is not None:
        share = replace(share, concurrency=concurrency or None)
    if rate is not None:
        share = replace(share, rate=None if rate == "none" else _parsed("--rate", Rate.parse, rate))
    return replace(share, priority=priority or share.priority, weight=weight or share.weight)


def _share_words(share: Share) -> str:
    words = [
        "" if share.priority is EQUAL_SHARE.priority else share.priority.value,
        "" if share.weight == EQUAL_SHARE.weight else f"weight {share.weight}",
        "" if share.concurrency is None else f"{share.concurrency} at once",
        "" if share.rate is None else str(share.rate),
    ]
    return ", ".join(word for word in words if word)


def _expiry(days: int | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _store() -> KeyStore:
    return KeyStore(read_settings().state_dir)


def _listed(store: KeyStore) -> list[ApiKey]:
    try:
        return store.listed()
    except KeyFileError as error:
        fail(str(error))
