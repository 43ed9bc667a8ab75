"""`explain`: what a reason code or an error type means, without an orchestrator; and where a front placed a plugin."""

import re
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.connection import checked_address
from orchestrator.cli.console import console, misused, print_raw, show_json
from orchestrator.client import ApiError, Client, PluginPlacement
from orchestrator.lifecycle.explanations import EXPLANATIONS, Explanation, find, similar
from orchestrator.lifecycle.explanations.page import page

_PLUGIN_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABELS: Final = {
    "meaning": "means",
    "what_to_do": "what to do",
    "in_a_test": "in a test",
    "what_happens_then": "what happens then",
    "read_on": "read on",
}


def _complete(incomplete: str) -> list[str]:
    return [name for name in EXPLANATIONS if name.lower().startswith(incomplete.lower())]


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            help="A reason code, an error type, or a plugin, for why a front placed it as it did; all codes where none "
            "is named.",
            autocompletion=_complete,
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the page of all codes.")] = False,
) -> None:
    """Say what a reason code or error type means, what to do, and how a test produces it. Of a plugin behind a front:
    by which rule each host was accepted or refused.
    """
    if markdown:
        print_raw(page(), end="")
    elif code is None:
        listed = list(EXPLANATIONS.values())
        show_json([each.report() for each in listed]) if as_json else console.print(_table(listed))
    elif (found := find(code)) is None and (placement := _placement(code)) is not None:
        show_json(placement) if as_json else console.print(_hosts(placement))
    elif found is None:
        misused(code, _unknown(similar(code)))
    elif as_json:
        show_json(found.report())
    else:
        console.print(_details(found))


def _placement(name: str) -> PluginPlacement | None:
    """Of a plugin behind a front; None where no plugin has this name, or nothing answers."""
    if _PLUGIN_NAME.fullmatch(name) is None:
        return None
    try:
        # No retries: most names that are neither a code nor a plugin are mistyped, and who mistypes waits.
        with Client(checked_address(), retries=0) as api:
            found = api.placement(name)
    except ApiError:
        return None
    if "hosts" not in found:
        misused(name, "a plugin of a single orchestrator, which has no hosts to choose from; ask a front")
    return found


def _hosts(placement: PluginPlacement) -> Table:
    table = Table("HOST", "RULE", "INSTANCES", "WHY", box=None, pad_edge=False)
    for each in placement.get("hosts", ()):
        table.add_row(*map(Text, (each["host"], each["rule"], str(each["replicas"] or ""), each["reason"])))
    return table


def _unknown(meant: list[str]) -> str:
    guess = f"Did you mean {' or '.join(meant)}? " if meant else ""
    return f"neither a reason code nor an error type. {guess}`orchestrator explain` lists all."


def _table(listed: list[Explanation]) -> Table:
    table = Table("code", "state or status", "means", box=None, pad_edge=False)
    for each in listed:
        table.add_row(each.name, str(each.state or each.status), each.meaning)
    return table


def _details(found: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(found.name, f"{found.kind}{f' of {found.state}' if found.state else ''}")
    if found.status is not None:
        table.add_row("status", f"{found.status}, of the run that meets it")
    report = found.report()
    for key, label in _LABELS.items():
        if report[key]:
            table.add_row(label, str(report[key]).replace("[", r"\["))
    return table
