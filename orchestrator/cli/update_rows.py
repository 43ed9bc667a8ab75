"""Updates as an operator reads them: a sentence for one, a table for several."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from orchestrator.cli.tables import local_time

_COLOURS: Final = {"SETTLED": "green", "REJECTED": "bold red", "REVERTED": "yellow"}


def update_sentence(update: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one per step
    """What goes on, or how it ended and what serves now."""
    old, new = _version(update["from_release"]), _version(update["to_release"])
    plugin, kind, code = update["plugin"], update["kind"], update["reason_code"]
    cause = ": ".join(filter(None, (code, update["reason"])))
    match update["step"]:
        case "PROPOSED":
            return f"{plugin}: checked and built."
        case "BUILT" | "STARTING":
            return f"{plugin}: {new} starts ({update['strategy']}: {update['strategy_reason']})."
        case "PROVING":
            return f"{plugin}: {new} is being proven."
        case "SWITCHED":
            return f"{plugin}: {update['replicas_updated']} of {update['replicas']} instances are of {new}."
        case "SETTLED" if code is not None:
            return f"{plugin}: the {kind} to {new} stopped. {cause}"
        case "SETTLED":
            return f"{plugin} is {new} now. {update['proof'] or update['reason'] or ''}".rstrip()
        case "REVERTED":
            return f"{plugin} was {new}, and went back."
        case _:
            return f"{plugin} stays what it was{f' ({old})' if old else ''}: the {kind} was rejected. {cause}"


def update_failed(update: Mapping[str, Any]) -> bool:
    """Whether the command that asked for it is to end with an error."""
    return update["ended"] and update["reason_code"] is not None


def updates_table(updates: Sequence[Mapping[str, Any]]) -> Table:
    """One row per update, the newest first, with its reason below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("UPDATE", "REQUESTED", "FROM", "TO", "STRATEGY", "STEP"):
        table.add_column(name, no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for update in updates:
        step = update["step"]
        table.add_row(
            Text(update["id"] if update["kind"] == "update" else f"{update['id']} (revert)"),
            Text(local_time(update["requested_at"]), style="dim"),
            Text(_version(update["from_release"])),
            Text(_version(update["to_release"])),
            Text(update["strategy"] or update["strategy_asked"]),
            Text(step, style=_COLOURS.get(step, "cyan")),
            Text(": ".join(filter(None, (update["reason_code"], update["reason"])))),
        )
    return table


def _version(release: Mapping[str, Any] | None) -> str:
    return "" if release is None else str(release["version"])
