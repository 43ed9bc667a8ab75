"""The commands that look: plugins, health, tools, logs, events, gpus."""

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from orchestrator.cli.client import EXIT_FAILED, connected
from orchestrator.cli.output import AsJson, Name, complete_plugin, console, print_line, print_raw, show_json
from orchestrator.cli.tables import STATE_COLOURS, gpus_table, health_table, long_texts, plugins_table, reason_below
from orchestrator.client import LifecycleEvent, Plugin

Follow = Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")]


def plugins(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, live, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """The plugins and how each of them is."""
    with connected() as api:
        if watch:
            _watch(api.watch(), as_json=as_json)
            return
        listed = api.plugins()
    show_json(listed) if as_json else console.print(plugins_table(listed))


def _watch(changes: Iterable[Plugin], *, as_json: bool) -> None:
    """A table that follows; a line for each change where the output is no terminal."""
    if as_json or not console.is_terminal:
        for plugin in changes:
            if as_json:
                print_line(plugin)
            else:
                reason = f"  {plugin['reason_code']}: {plugin['reason']}" if plugin["reason_code"] else ""
                print_raw(f"{plugin['observed_at']}  {plugin['name']}  {plugin['state']}{reason}")
        return
    known: dict[str, tuple[float, Plugin]] = {}

    def table() -> object:
        now = time.monotonic()
        return plugins_table([_older(plugin, now - seen) for _, (seen, plugin) in sorted(known.items())])

    with Live(get_renderable=table, console=console, refresh_per_second=4):  # type: ignore[arg-type]
        for plugin in changes:
            known[plugin["name"]] = (time.monotonic(), plugin)


def _older(plugin: Plugin, seconds: float) -> Plugin:
    """The plugin as it is `seconds` after it was told of: what lives has been up for longer."""
    if plugin["uptime_seconds"] is None or plugin["reason_code"] is not None:
        return plugin
    return {**plugin, "uptime_seconds": plugin["uptime_seconds"] + seconds}


def health(name: Name, *, as_json: AsJson = False) -> None:
    """Everything known of one plugin. Exit code 1 where it is FAILED or UNAVAILABLE."""
    with connected() as api:
        plugin = api.health(name)
    if as_json:
        show_json(plugin)
    else:
        console.print(health_table(plugin))
        for heading, text in long_texts(plugin):
            console.print(Text(f"\n{heading}", style="bold"))
            print_raw(text.rstrip("\n"))
    if plugin["reason_code"] is not None:
        raise typer.Exit(EXIT_FAILED)


def tools(name: Name, *, as_json: AsJson = False) -> None:
    """A plugin's tools and what they take."""
    with connected() as api:
        listed = api.tools(name)
    if as_json:
        show_json(listed)
        return
    for tool in listed:
        console.print(Text.assemble((tool["name"], "bold"), f"  {tool.get('description') or ''}"), soft_wrap=True)
        schema = tool.get("input_schema", {})
        for parameter, about in schema.get("properties", {}).items():
            upload = tool.get("uploads", {}).get(parameter)
            kind = f"upload ({upload})" if upload else about.get("type", "any")
            default = f" = {about['default']!r}" if "default" in about else ""
            line = Text.assemble(f"    {parameter}: {kind}{default}  ", (about.get("description") or "", "dim"))
            console.print(line, soft_wrap=True)


def logs(
    name: Name,
    *,
    tail: Annotated[int, typer.Option("-n", "--tail", min=1, max=10_000, help="Lines from the end.")] = 100,
    follow: Follow = False,
) -> None:
    """What a plugin's container printed."""
    with connected() as api:
        for line in api.logs(name, tail=tail, follow=follow):
            print_raw(line)


def events(
    name: Annotated[str | None, typer.Argument(help="One plugin's; else all.", autocompletion=complete_plugin)] = None,
    *,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="The newest that are kept.")] = 100,
    follow: Follow = False,
    as_json: AsJson = False,
) -> None:
    """State changes. With --follow and --json one object a line."""
    with connected() as api:
        found = api.events(name, limit=limit, follow=follow)
        if as_json and not follow:
            show_json(list(found))
            return
        for event in found:
            print_line(event) if as_json else _print_event(event, named=name is None)


def _print_event(event: LifecycleEvent, *, named: bool) -> None:
    try:
        when = f"{datetime.fromisoformat(event['time']).astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        when = event["time"]
    state = event["state"]
    which = f"{event['plugin']} " if named else ""
    line = Text.assemble((when, "dim"), f"  {which}#{event['generation']}  ", (state, STATE_COLOURS.get(state, "")))
    console.print(line, soft_wrap=True)
    if event["reason_code"]:
        console.print(reason_below(event["reason_code"], event["reason"]))


def gpus(
    *,
    release: Annotated[str | None, typer.Option(metavar="UUID", help="Take this GPU out of quarantine first.")] = None,
    as_json: AsJson = False,
) -> None:
    """The host's GPUs, how they are, and who holds them."""
    with connected() as api:
        listed = api.release_gpu(release) if release is not None else api.gpus()
    if as_json:
        show_json(listed)
        return
    if listed["reason"]:
        console.print(Text.assemble((str(listed["reason_code"]), "yellow"), f": {listed['reason']}"), soft_wrap=True)
    if listed["devices"]:
        console.print(gpus_table(listed["devices"]))
    for sentence in listed["quarantines"]:
        console.print(Text(sentence, style="yellow"), soft_wrap=True)
