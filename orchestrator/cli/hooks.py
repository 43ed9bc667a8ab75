"""`webhooks`: those of the operator's file, their deliveries, a test."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.connection import connected
from orchestrator.cli.console import EXIT_FAILED, AsJson, complain, console, errors, show_json
from orchestrator.cli.tables import local_time, reason_below
from orchestrator.client import ApiError, Delivery, Webhook

hooks = typer.Typer(
    help="List the webhooks of ORCHESTRATOR_WEBHOOKS and their deliveries, repeat one, send a test.",
    no_args_is_help=True,
)

_STATE_COLOURS = {"delivered": "green", "pending": "yellow", "failed": "red"}


def _complete(incomplete: str) -> list[str]:
    try:
        with connected() as api:
            return [each["name"] for each in api.webhooks() if each["name"].startswith(incomplete)]
    except (ApiError, typer.Exit):
        return []


Name = Annotated[str, typer.Argument(help="The webhook's name.", autocompletion=_complete)]
State = Annotated[Literal["pending", "delivered", "failed"] | None, typer.Option(help="Only these.")]


@hooks.command("list")
def list_webhooks(*, as_json: AsJson = False) -> None:
    """List the webhooks with the numbers of their deliveries."""
    with connected() as api:
        found = api.webhooks()
    if as_json:
        show_json(found)
    elif found:
        console.print(_webhooks_table(found))
        for each in found:
            if each["paused"] is not None:
                console.print(reason_below(each["name"], each["paused"]))
    else:
        complain("There are no webhooks", "ORCHESTRATOR_WEBHOOKS names no file of them.", style="yellow")


@hooks.command()
def deliveries(
    name: Name,
    *,
    state: State = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List deliveries of a webhook, newest first: those that wait, and the last that ended."""
    with connected() as api:
        found = api.webhook_deliveries(name, state=state, limit=limit)
    if as_json:
        show_json(found)
        return
    console.print(_deliveries_table(found))
    for each in found:
        if each["error"] is not None:
            console.print(reason_below(each["delivery_id"], each["error"]))


@hooks.command()
def repeat(
    name: Name,
    delivery_id: Annotated[str, typer.Argument(help="The delivery, as `deliveries` lists it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Deliver a message once more that was delivered, or given up."""
    with connected() as api:
        found = api.repeat_delivery(name, delivery_id)
    show_json(found) if as_json else console.print(_deliveries_table([found]))


@hooks.command("test")
def send_test(name: Name, *, as_json: AsJson = False) -> None:
    """Send a test message at once and show what it was answered with. Exit code 1 if it failed."""
    with connected() as api:
        found = api.test_webhook(name)
    if as_json:
        show_json(found)
    elif found["ok"]:
        console.print(f"{name} answered {found['status']} within {found['duration_ms']:.0f} ms.", soft_wrap=True)
    else:
        errors.print(Text.assemble((name, "red"), f": {found['error']}"), soft_wrap=True)
    if not found["ok"]:
        raise typer.Exit(EXIT_FAILED)


def _webhooks_table(found: Sequence[Webhook]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "ADDRESS", "EVENTS", "PLUGINS", "PENDING", "DELIVERED", "FAILED"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(
            Text(each["name"], style="red" if each["paused"] else ""),
            Text(each["url"]),
            Text(", ".join(each["events"])),
            Text(",".join(each["plugins"])),
            *(str(each[state]) for state in ("pending", "delivered", "failed")),
        )
    return table


def _deliveries_table(found: Sequence[Delivery]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("DELIVERY", "CREATED", "TYPE", "PLUGIN", "STATE", "ATTEMPTS", "STATUS"):
        table.add_column(heading, no_wrap=heading == "DELIVERY")
    for each in found:
        table.add_row(
            Text(each["delivery_id"]),
            Text(local_time(each["created_at"]), style="dim"),
            Text(each["type"]),
            Text(each["plugin"]),
            Text(each["state"], style=_STATE_COLOURS[each["state"]]),
            str(each["attempts"]),
            "" if each["status"] is None else str(each["status"]),
        )
    return table
