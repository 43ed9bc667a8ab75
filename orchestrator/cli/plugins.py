"""`plugins`, `health`, `tools`, `logs`, `events`, `gpus`: show plugins."""

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.live import Live
from rich.text import Text

from orchestrator.cli.connection import Name, complete_plugin, connected
from orchestrator.cli.console import (
    EXIT_FAILED,
    AsJson,
    console,
    errors,
    misused,
    print_line,
    print_raw,
    show_json,
)
from orchestrator.cli.schema_text import parameter_lines, result_text, tool_notes
from orchestrator.cli.tables import (
    STATE_COLOURS,
    gpus_table,
    health_table,
    long_texts,
    plugins_table,
    reason_below,
    replicas_text,
)
from orchestrator.client import Client, LifecycleEvent, Plugin
from orchestrator.formatting import NOTE

Follow = Annotated[bool, typer.Option("-f", "--follow", help="Follow until Ctrl-C.")]
_POLL_INTERVAL = 1.0  # seconds
_TAIL = 100  # lines
_FOLLOWED_TAIL = 10  # lines: one follows a log for what comes, as with journalctl
_MAX_TAIL = 10_000  # lines


def plugins(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update the table live until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """List all plugins with their state."""
    with connected() as api:
        if watch:
            _watch(api.watch(), as_json=as_json)
            return
        listed = api.plugins()
    show_json(listed) if as_json else console.print(plugins_table(listed))


def _watch(changes: Iterable[Plugin], *, as_json: bool) -> None:
    """A live table; on no terminal, a line per change."""
    if as_json or not console.is_terminal:
        for plugin in changes:
            if as_json:
                print_line(plugin)
            elif plugin.get("removed"):
                print_raw(f"{plugin['observed_at']}  {plugin['name']}  removed")
            else:
                state = " ".join(filter(None, (plugin["state"], replicas_text(plugin))))
                reason = ": ".join(filter(None, (plugin["reason_code"], plugin["reason"])))
                why = "  ".join(filter(None, (reason, plugin.get("degraded_reason"))))
                print_raw(f"{plugin['observed_at']}  {plugin['name']}  {state}  {why}".rstrip())
        return
    known: dict[str, tuple[float, Plugin]] = {}

    def table() -> object:
        now = time.monotonic()
        return plugins_table([_older(plugin, now - seen) for _, (seen, plugin) in sorted(known.items())])

    with Live(get_renderable=table, console=console, refresh_per_second=4):  # type: ignore[arg-type]
        for plugin in changes:
            if plugin.get("removed"):
                known.pop(plugin["name"], None)
            else:
                known[plugin["name"]] = (time.monotonic(), plugin)


def _older(plugin: Plugin, seconds: float) -> Plugin:
    """The plugin with its uptime `seconds` after it was reported."""
    if plugin["uptime_seconds"] is None or plugin["reason_code"] is not None:
        return plugin
    return {**plugin, "uptime_seconds": plugin["uptime_seconds"] + seconds}


def health(name: Name, *, as_json: AsJson = False) -> None:
    """Show everything about one plugin. Exit code 1 if it is FAILED or UNAVAILABLE."""
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
    """List a plugin's tools with their parameters."""
    with connected() as api:
        listed = api.tools(name)
        plugin = None if listed or as_json else api.health(name)
    if as_json:
        show_json(listed)
        return
    if plugin is not None:
        errors.print(_why_no_tools(plugin), soft_wrap=True)
    for tool in listed:
        console.print(Text.assemble((tool["name"], "bold"), f"  {tool.get('description') or ''}"), soft_wrap=True)
        for line, description in parameter_lines(tool):
            console.print(Text.assemble(f"    {line}  ", (description, "dim")), soft_wrap=True)
        if gives := result_text(tool):
            console.print(Text(f"    {'yields' if tool.get('streaming') else 'returns'} {gives}"), soft_wrap=True)
        if notes := tool_notes(tool):
            console.print(Text(f"    {notes}", "dim"), soft_wrap=True)


def _why_no_tools(plugin: Plugin) -> str:
    """A plugin itself says which tools it has, once it is ready."""
    name, code = plugin["name"], plugin["reason_code"]
    if code is None and plugin["state"] != "LOADED":
        return f"{name} has no tools."
    what = "It still starts." if code is None else f"It is {plugin['state']}: {code}."
    then = {
        None: f"`orchestrator health {name}` says what goes on.",
        "PARKED": f"`orchestrator start {name}` starts it; so does its first run.",
        "STOPPED": f"`orchestrator start {name}` starts it.",
    }.get(code, f"`orchestrator health {name}` says why.")
    return f"The tools of {name} are not known before it has been ready once. {what} {then}"


def logs(
    name: Name,
    *,
    tail: Annotated[
        int | None,
        typer.Option(
            "-n", "--tail", min=1, max=_MAX_TAIL, help="Lines from the end; 100 by default, and 10 with --follow."
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="All lines that are there.")] = False,
    follow: Follow = False,
    build: Annotated[bool, typer.Option("--build", help="Print the last build of its image instead.")] = False,
    instance: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|all",
            help="That of this instance, or of all, each line with its instance; the newest without it.",
        ),
    ] = None,
) -> None:
    """Print the log of a plugin's container. With --follow it goes on with the next instance after a restart, and says
    so on stderr.

    While an image is built for the first instance, it prints the output of that.
    """
    if build and follow:
        misused("--follow", "a build is not followed; `orchestrator health` shows its newest line")
    if instance is not None and build:
        misused("--instance", "a build is of no instance")
    if whole and tail is not None:
        misused("--all", "--tail is given, too")
    chosen = _chosen(instance)
    tail = tail or (_MAX_TAIL if whole else _FOLLOWED_TAIL if follow else _TAIL)
    with connected() as api:
        for line in (
            _followed(api, name, tail, chosen) if follow else api.logs(name, tail=tail, build=build, generation=chosen)
        ):
            print_raw(line)


def _chosen(instance: str | None) -> int | Literal["all"] | None:
    if instance is None:
        return None
    if instance == "all":
        return "all"
    if not instance.isdecimal() or int(instance) < 1:
        misused("--instance", f"{instance!r} is neither the number of an instance nor `all`")
    return int(instance)


def _followed(api: Client, name: str, tail: int, instance: int | Literal["all"] | None) -> Iterator[str]:
    """The log's lines; its notes, such as which instance is next, go to stderr. Of one instance until its end."""
    last = ""
    while True:
        seen = last
        for line in api.logs(name, tail=tail, follow=True, generation=instance):
            if line.startswith(NOTE):
                errors.print(Text(line, style="dim"), soft_wrap=True)
                continue
            time_of = line.partition(" ")[0] if line[:1].isdigit() else ""  # a build's output has none
            if time_of > seen or not seen:  # not printed before the stream ended
                last = max(last, time_of)
                yield line
        if isinstance(instance, int) and not _lives(api, name, instance):
            return
        # The orchestrator was stopped; the next one may have adopted the instance.
        tail = _MAX_TAIL
        time.sleep(_POLL_INTERVAL)


def _lives(api: Client, name: str, generation: int) -> bool:
    alive = (each["generation"] for each in api.health(name)["instances"] if each["reason_code"] is None)
    return generation in alive


def events(
    name: Annotated[
        str | None, typer.Argument(help="Only this plugin; all by default.", autocompletion=complete_plugin)
    ] = None,
    *,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="Number of newest events.")] = 100,
    follow: Follow = False,
    as_json: AsJson = False,
) -> None:
    """List state changes. With --follow and --json, one object per line."""
    with connected() as api:
        found = api.events(name, limit=limit, follow=follow)
        if as_json and not follow:
            show_json(list(found))
            return
        for event in found:
            print_line(event) if as_json else _print_event(event, with_plugin=name is None)


def _print_event(event: LifecycleEvent, *, with_plugin: bool) -> None:
    try:
        when = f"{datetime.fromisoformat(event['time']).astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        when = event["time"]
    state = event["state"]
    which = f"{event['plugin']} " if with_plugin else ""
    line = Text.assemble((when, "dim"), f"  {which}#{event['generation']}  ", (state, STATE_COLOURS.get(state, "")))
    console.print(line, soft_wrap=True)
    if event["reason"]:
        console.print(reason_below(event["reason_code"], event["reason"]))


def gpus(
    *,
    release: Annotated[str | None, typer.Option(metavar="UUID", help="Take this GPU out of quarantine first.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the host's GPUs, their state and the plugins that hold them."""
    with connected() as api:
        listed = api.release_gpu(release) if release is not None else api.gpus()
    if as_json:
        show_json(listed)
        return
    if listed["reason"]:
        console.print(Text.assemble((str(listed["reason_code"]), "yellow"), f": {listed['reason']}"), soft_wrap=True)
    if listed["devices"]:
        console.print(gpus_table(listed["devices"]))
    for way, sentence in (listed.get("engine") or {}).get("refused", {}).items():
        console.print(Text(f"refused by the engine ({way}): {sentence}", style="yellow"), soft_wrap=True)
    for each in listed.get("waiting") or ():
        console.print(Text(f"{each['plugin']} waits for a GPU: {each['reason']}"), soft_wrap=True)
    for sentence in listed["quarantines"]:
        console.print(Text(sentence, style="yellow"), soft_wrap=True)
