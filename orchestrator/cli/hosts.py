"""`hosts` and `move`: the machines behind a front."""

from typing import Annotated

import typer
import yaml
from rich.table import Table
from rich.text import Text

from orchestrator.cli.connection import Name, connected
from orchestrator.cli.console import EXIT_FAILED, AsJson, busy, complain, console, misused, print_raw, show_json
from orchestrator.cli.tables import plugins_table
from orchestrator.client import Drained, Host

hosts = typer.Typer(help="List, add, drain, resume and forget the hosts behind a front.", no_args_is_help=True)

HostName = Annotated[str, typer.Argument(help="The host's name, as hosts.yaml has it.")]


@hosts.command("list")
def list_hosts(*, as_json: AsJson = False) -> None:
    """List all hosts with their state. Exit code 1 if one does not answer."""
    with connected() as api:
        listed = api.hosts()
    show_json(listed) if as_json else console.print(_table(listed))
    if any(host["state"] in ("STALE", "JOINING") for host in listed):
        raise typer.Exit(EXIT_FAILED)


@hosts.command()
def add(
    name: HostName,
    address: Annotated[str, typer.Argument(help="Of its orchestrator, such as https://10.0.0.7:8000.")],
    *,
    key_file: Annotated[
        str | None, typer.Option(help="A file with an operator's key of that orchestrator, where it has keys.")
    ] = None,
    ca_file: Annotated[str | None, typer.Option(help="The CA of its certificate, where that is not public.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For `placement.requires`.")] = None,
) -> None:
    """Print a host's lines for hosts.yaml. A front reads that file again when it changes: nothing need be restarted."""
    pairs = [each.partition("=") for each in label or ()]
    if wrong := [each for each, pair in zip(label or (), pairs, strict=True) if not (pair[0] and pair[1])]:
        misused("--label", f"expected NAME=VALUE, not {wrong[0]}")
    entry = {
        "name": name,
        "address": address,
        "key_file": key_file,
        "ca_file": ca_file,
        "labels": {each: value for each, _, value in pairs} or None,
    }
    print_raw(yaml.safe_dump([{field: value for field, value in entry.items() if value}], sort_keys=False), end="")


@hosts.command()
def drain(name: HostName, *, as_json: AsJson = False) -> None:
    """Have nothing new on a host, and move its plugins to others. Exit code 1 if some fit nowhere else and stay."""
    with connected() as api, busy(f"moving what serves on {name}"):
        drained = api.drain_host(name)
    show_json(drained) if as_json else _show_drained(drained)
    if drained["remaining"]:
        raise typer.Exit(EXIT_FAILED)


@hosts.command()
def resume(name: HostName, *, as_json: AsJson = False) -> None:
    """Let a drained host have new plugins again. What was moved away stays where it is."""
    with connected() as api:
        resumed = api.resume_host(name)
    if as_json:
        show_json(resumed)
    else:
        console.print(f"{name} is resumed.")


@hosts.command()
def forget(name: HostName, *, as_json: AsJson = False) -> None:
    """Take a host off the front's list that does not answer, and will not any more."""
    with connected() as api:
        forgotten = api.forget_host(name)
    show_json(forgotten) if as_json else console.print(forgotten["notice"], soft_wrap=True)


def move(
    name: Name,
    *,
    to: Annotated[str, typer.Option(metavar="HOST", help="The host that it shall serve on.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="HOST", help="The host that it leaves, where it serves on several.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="From a host that does not answer; it ends its own when it is back.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move a plugin to another host, without a failed call: it serves there before it ends here."""
    with connected() as api, busy(f"moving {name} to {to}"):
        moved = api.move(name, to, source=source, force=force)
    show_json(moved) if as_json else console.print(plugins_table([moved]))


def _show_drained(drained: Drained) -> None:
    for each in drained["moved"]:
        console.print(f"{each['plugin']} serves on {each['to']}", soft_wrap=True)
    for each in drained["remaining"]:
        complain(each["plugin"], f"stays on {drained['host']}. {each['reason']}", "yellow")
    if not drained["remaining"]:
        console.print(f"{drained['host']} is drained.", soft_wrap=True)


def _table(listed: list[Host]) -> Table:
    table = Table("HOST", "STATE", "PLUGINS", "ADDRESS", "LABELS", "PROBLEM", box=None, pad_edge=False)
    for host in listed:
        labels = " ".join(f"{name}={value}" for name, value in host["labels"].items())
        texts = (host["name"], host["state"], str(host["plugins"]), host["address"], labels, host["problem"] or "")
        table.add_row(*map(Text, texts))
    return table
