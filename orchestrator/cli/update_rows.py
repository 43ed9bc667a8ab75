"""Updates as an operator reads them: a line per step, a sentence for the end, a list of several."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.tables import aligned, is_long, local_time, reason_below

_COLOURS: Final = {"SETTLED": "green", "REJECTED": "bold red", "REVERTED": "yellow"}
_STEP_WIDTH: Final = max(map(len, ("PROPOSED", "STARTING", "REVERTED")))


def step_lines(update: Mapping[str, Any], seen: set[str], *, whole: bool = True) -> Iterator[Text]:
    """A line for each step that it has reached and that is not in `seen`, which has it then. The end has its reason
    only in the `whole`: else it is followed by `update_sentence`.

    Of SWITCHED there is a line for each instance that has taken over.
    """
    for step, time, updated in _reached(update):
        now = f"{step} {updated}" if step == "SWITCHED" else step
        if now in seen:
            continue
        seen.add(now)
        try:
            clock = f"{datetime.fromisoformat(time).astimezone():%H:%M:%S}"
        except ValueError:
            clock = time
        ends = step == update["step"]
        style = _step_style(update) if ends else "cyan"
        shown = whole or not (ends and update["ended"])
        text = _of_step({**update, "replicas_updated": updated}, step) if shown else ""
        line = Text.assemble((clock, "dim"), "  ", (f"{step:<{_STEP_WIDTH}}", style), f"  {text}")
        line.rstrip()
        yield line


def _reached(update: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Each step with its time, and how many instances are updated by then."""
    updated = update["replicas_updated"]
    for step, time in update["step_times"].items():
        times = (step == "SWITCHED" and update.get("switch_times")) or [time]
        for number, at in enumerate(times, start=1):
            yield step, at, updated - len(times) + number


def update_sentence(update: Mapping[str, Any]) -> str:
    """What goes on, or how it ended and what serves now."""
    old, new = _version(update["from_release"]), _version(update["to_release"])
    plugin, kind = update["plugin"], update["kind"]
    match update["step"]:
        case "SETTLED" if update["reason_code"] is not None:
            return f"{plugin}: the {kind} to {new} stopped. {_cause(update)}"
        case "SETTLED":
            return f"{plugin} is {new} now. {update['proof'] or update['reason'] or ''}".rstrip()
        case "REVERTED":
            return f"{plugin} was {new}, and went back."
        case "REJECTED":
            return f"{plugin} stays what it was{f' ({old})' if old else ''}: the {kind} was rejected. {_cause(update)}"
        case step:
            return f"{plugin}: {_of_step(update, step)}."


def update_failed(update: Mapping[str, Any]) -> bool:
    """Whether the command that asked for it is to end with an error."""
    return update["ended"] and update["reason_code"] is not None


def updates_table(updates: Sequence[Mapping[str, Any]]) -> Group:
    """One line per update, the newest first, with its reason below."""
    rows = [[Text(name, style="bold") for name in ("UPDATE", "REQUESTED", "FROM", "TO", "STRATEGY", "STEP", "")]]
    rows += [
        [
            Text(update["id"]),
            Text(local_time(update["requested_at"]), style="dim"),
            Text(_version(update["from_release"])),
            Text(_version(update["to_release"])),
            Text(update["strategy"] or update["strategy_asked"]),
            Text(update["step"], style=_step_style(update)),
            Text("" if update["kind"] == "update" else update["kind"], style="dim"),
        ]
        for update in updates
    ]
    lines: list[RenderableType] = []
    for line, update in zip(aligned(rows, len(rows[0])), (None, *updates), strict=True):
        lines.append(line)
        if update is not None and update["reason"]:
            lines.append(reason_below(update["reason_code"], update["reason"]))
    return Group(*lines)


def update_fields(update: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one, for a table of them; without its steps, and what is too long for a table."""
    names = {"from_release": "from", "to_release": "to"}
    hidden = {"plugin", "step_times", "switch_times", "post_mortem", "ended", "requested_at", "strategy_asked"}
    fields: dict[str, Any] = {}
    for name, value in update.items():
        if name not in hidden:
            fields[names.get(name, name)] = _version(value) if name in names else value
    if update["strategy"] is not None:
        fields["strategy"] = f"{update['strategy']}: {update['strategy_reason']}"
    fields["replicas"] = f"{update['replicas_updated']} of {update['replicas']}"
    for shown_elsewhere in ("strategy_reason", "replicas_updated"):
        fields.pop(shown_elsewhere, None)
    report = update["post_mortem"] or {}
    return fields | {f"post_mortem.{key}": value for key, value in report.items() if not is_long(key, value)}


def _of_step(update: Mapping[str, Any], step: str) -> str:  # noqa: PLR0911 - one per step
    """What a step means for this update."""
    new = _version(update["to_release"])
    match step:
        case "PROPOSED":
            return (
                "its folder is checked, its image is built" if update["kind"] == "update" else "its image is looked up"
            )
        case "BUILT":
            why = f", since {update['strategy_reason']}" if update["strategy_reason"] else ""
            return f"{new}: {update['strategy']}{why}"
        case "STARTING":
            return f"an instance of {new} starts"
        case "PROVING":
            return f"{new} is being proven"
        case "SWITCHED":
            return f"{update['replicas_updated']} of {update['replicas']} instances are of {new}"
        case "SETTLED" if update["reason_code"] is None:
            return update["proof"] or update["reason"] or ""
        case "REVERTED":
            return "an operator went back to the former release"
        case _:
            return _cause(update)


def _cause(update: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (update["reason_code"], update["reason"])))


def _step_style(update: Mapping[str, Any]) -> str:
    return "yellow" if update_failed(update) and update["step"] == "SETTLED" else _COLOURS.get(update["step"], "cyan")


def _version(release: Mapping[str, Any] | None) -> str:
    return "" if release is None else str(release["version"])
