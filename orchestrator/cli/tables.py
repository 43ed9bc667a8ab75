"""Rich tables of plugins, runs and GPUs."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

STATE_COLOURS = {
    "LOADED": "cyan",
    "INITIALIZED": "green",
    "RUNNING": "bold green",
    "FAILED": "bold red",
    "UNAVAILABLE": "yellow",
}
_OUTCOME_COLOURS = {"ok": "green", "cancelled": "yellow", "interrupted": "yellow"}
_LEFT_ALIGNED = 3
RUN_DIGITS = 8  # of a run's id: enough to distinguish runs, and a row fits 80 columns
_SHOWN_BY_INSTANCES = frozenset({"candidate", "degraded"})  # the candidate is one of them; why it is degraded is a row
_LONG_TEXTS = frozenset({"stacks", "traceback", "build_output", "log_tail"})


def plugins_table(plugins: Sequence[Mapping[str, Any]]) -> Group:
    """One line per plugin with its description cut at the edge; below it its whole reason."""
    rows = [
        [Text(name, style="bold") for name in ("PLUGIN", "VERSION", "STATE", "UP", "OK", "ERRORS", "LAST ms", "ABOUT")]
    ]
    for plugin in plugins:
        took = plugin["last_execution_time_ms"]
        rows.append(
            [
                Text(plugin["name"]),
                Text(plugin.get("version") or ""),
                _state(plugin),
                Text(format_duration(plugin["uptime_seconds"])),
                Text(str(plugin["success_count"])),
                Text(str(plugin["error_count"])),
                Text("" if took is None else f"{took:.0f}"),
                Text(" ".join((plugin["description"] or "").split()), style="dim"),
            ]
        )
    lines: list[RenderableType] = []
    for line, shown in zip(aligned(rows, _LEFT_ALIGNED), (None, *plugins), strict=True):
        lines.append(line)
        if shown is not None and shown["reason"]:
            lines.append(reason_below(shown["reason_code"], shown["reason"]))
        if shown is not None and shown.get("degraded_reason"):
            lines.append(reason_below("degraded", shown["degraded_reason"]))
    return Group(*lines)


def aligned(rows: Sequence[Sequence[Text]], left: int) -> Iterator[Text]:
    """A line per row, in columns of which the first `left` are aligned there; the last is cut at the edge."""
    # A rich table has no rows across all columns, which the reasons below a line need.
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        for at, cell in enumerate(row[:-1]):
            pad = cell.pad_right if at < left else cell.pad_left
            pad(widths[at] - cell.cell_len)
        line = Text("  ").join(row)
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


def _state(plugin: Mapping[str, Any]) -> Text:
    """`RUNNING`, or `RUNNING 2/3` where more than one instance is wanted; with a question mark where it is stale."""
    replicas = replicas_text(plugin)
    text = plugin["state"] + ("?" if plugin["stale"] else "") + (f" {replicas}" if replicas else "")
    if plugin["reason_code"] == "PARKED":  # at rest, and no trouble
        return Text(text, style="dim")
    return Text(text, style="yellow" if plugin.get("degraded") else STATE_COLOURS.get(plugin["state"], ""))


def replicas_text(plugin: Mapping[str, Any]) -> str:
    """`2/3`: so many instances take runs of those that are wanted. Empty where one is wanted."""
    replicas = plugin.get("replicas") or {"wanted": 1}
    return f"{replicas['ready']}/{replicas['wanted']}" if replicas["wanted"] > 1 else ""


def reason_below(code: str | None, reason: str | None) -> Padding:
    """A whole reason, indented below the line it belongs to. Without a code it says what goes on."""
    parts = ((code, "bold"), f": {reason}") if code else ((reason or "", "dim"),)
    return Padding(Text.assemble(*parts, overflow="fold"), (0, 0, 0, 4), expand=False)


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row per run, with the first digits of its id."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("RUN", "PLUGIN", "TOOL"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("ACCEPTED", "STATE", "ms"):
        table.add_column(name, no_wrap=True, justify="right" if name == "ms" else "left")
    for run in runs:
        took = run["execution_time_ms"]
        state = run["reason_code"] or run["outcome"] or run["state"]
        if run["state"] == "queued":
            state = f"queued ({run['queue_position'] or '?'})"
        elif run["state"] == "running" and run["progress"] and run["progress"].get("fraction") is not None:
            state = f"running {run['progress']['fraction']:.0%}"
        table.add_row(
            Text(run["run_id"][:RUN_DIGITS]),
            Text(run["plugin"]),
            Text(run["tool"]),
            Text(local_time(run["accepted_at"]), style="dim"),
            Text(state, style=_OUTCOME_COLOURS.get(state, "" if run["outcome"] is None else "red")),
            "" if took is None else f"{took:.0f}",
        )
    return table


def local_time(text: str) -> str:
    """An ISO 8601 time in local time, to the second."""
    try:
        return f"{datetime.fromisoformat(text).astimezone():%m-%d %H:%M:%S}"
    except ValueError:
        return text


def fields_table(fields: Mapping[str, Any]) -> Table:
    """One row per field that has a value."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, "", [], {}):
            table.add_row(Text(name), Text(_plain(value)))
    return table


def gpus_table(devices: Sequence[Mapping[str, Any]]) -> Table:
    """One row per GPU or MIG instance."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("GPU", "NAME", "UUID", "MEMORY", "LOAD", "TEMP", "STATE", "HELD BY"):
        table.add_column(name)
    for gpu in devices:
        used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
        table.add_row(
            str(gpu.get("index", "?")),
            Text(gpu.get("name") or "?"),
            Text(gpu["uuid"] or "?"),
            "" if used is None or total is None else f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB",
            "" if gpu.get("utilization_percent") is None else f"{gpu['utilization_percent']} %",
            "" if gpu.get("temperature_celsius") is None else f"{gpu['temperature_celsius']} °C",
            Text(gpu.get("fault") or gpu.get("state", "")),
            Text(", ".join(holder["plugin"] for holder in gpu.get("holders", ()))),
        )
    return table


def health_table(plugin: Mapping[str, Any]) -> Table:
    """All fields of one plugin except the long texts."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in plugin.items():
        for heading, text in _rows(plugin, name, value):
            table.add_row(Text(heading), text)
    return table


def _rows(plugin: Mapping[str, Any], name: str, value: Any) -> Iterator[tuple[str, Text]]:
    """Those of one field."""
    if name in _SHOWN_BY_INSTANCES:
        return
    if name == "checks":
        yield from ((f"check {check['name']}", _check(check)) for check in value)
    elif name == "replicas":
        replicas = replicas_text(plugin) or f"{value['ready']}/{value['wanted']}"
        if value["wanted"] > 1 or value["wanted"] != value["in_manifest"]:
            other = "" if value["wanted"] == value["in_manifest"] else f" (the manifest says {value['in_manifest']})"
            yield name, Text(f"{replicas} ready{other}", style="yellow" if plugin["degraded"] else "")
    elif name == "instances":
        # A single one is what all the other rows show.
        yield from ((f"instance {each['generation']}", _instance(each)) for each in value if len(value) > 1)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if inner not in (None, "", [], {}) and not is_long(key, inner):
                yield f"{name}.{key}", Text(_plain(inner))
    elif value not in (None, [], "") and not is_long(name, value):
        yield name, Text(_plain(value), style=STATE_COLOURS.get(str(value), ""))


def _check(check: Mapping[str, Any]) -> Text:
    mark = Text("ok  " if check["ok"] else "FAIL", style="green" if check["ok"] else "red")
    return Text.assemble(mark, f" {check['detail']} ({check['source']})")


def _instance(instance: Mapping[str, Any]) -> Text:
    """Its state, what it does, where, and why it ended."""
    words = [] if instance["role"] == "serving" else [instance["role"]]
    if instance["uptime_seconds"] is not None and instance["reason_code"] is None:
        words.append(f"up {format_duration(instance['uptime_seconds'])}")
    words += [f"GPU {gpu['uuid'] if gpu.get('index') is None else gpu['index']}" for gpu in instance["gpus"]]
    words.append(f"{instance['in_flight']} in flight")
    words += [f"version {instance['version']}"] if instance["version"] else []
    words += [instance["container"]["name"]] if instance["container"].get("name") else []
    reason = f"\n{instance['reason_code']}: {instance['reason']}" if instance["reason_code"] else ""
    return Text.assemble((instance["state"], STATE_COLOURS.get(instance["state"], "")), f"  {', '.join(words)}{reason}")


def _plain(value: Any) -> str:
    """A value without the syntax of a programming language."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def long_texts(plugin: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Heading and text of stacks, tracebacks and output, which are too long for a table."""
    for name, value in plugin.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items() if is_long(key, inner))
        elif is_long(name, value):
            yield name, value


def is_long(name: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and (name in _LONG_TEXTS or "\n" in value)


def format_duration(seconds: float | None) -> str:
    """90061 → `1d1h`, 75 → `1m15s`."""
    if seconds is None:
        return ""
    whole = int(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller_size}{smaller}"
    return f"{whole}s"
