"""`dev`: a plugin is built and started anew whenever one of its files is saved; what goes wrong is shown in place."""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import typer
from rich.text import Text
from watchfiles import Change, DefaultFilter, watch

from orchestrator.cli.client import EXIT_FAILED, address, connected, fail, tell
from orchestrator.cli.configured import read_settings
from orchestrator.cli.output import Name, console, print_raw
from orchestrator.cli.tables import STATE_COLOURS, reason_below
from orchestrator.client import ApiError, Client, LifecycleEvent, PluginDetail
from orchestrator.loader.plugin_loader import PluginLoader

_LINES: Final = 15
"""Of a failed instance's log and build output."""
_BURIAL: Final = 5.0
"""Seconds until what is kept of an instance that ended is there."""
_SETTLE_MS: Final = 300
"""A save is over when no file has changed for so long."""


def dev(name: Name) -> None:
    """Start a plugin, and anew whenever a file in its folder is saved. Shows why it failed, also when a tool did.

    The orchestrator must run on this machine with the same plugin folders.
    """
    settings = read_settings()
    folder = next((p.folder for p in PluginLoader(settings.plugins_dirs).discover() if p.name == name), None)
    if folder is None:
        folders = ", ".join(str(directory) for directory in settings.plugins_dirs)
        fail(f"There is no plugin {name!r} in {folders}; `orchestrator new {name}` makes one.")
    with connected() as api:
        newest = [event["id"] for event in api.events(limit=1)]
        over = threading.Event()
        threading.Thread(target=_narrate, args=(name, newest[0] if newest else 0, over), daemon=True).start()
        console.print(Text(f"Watching {folder}; Ctrl-C ends it."), soft_wrap=True)
        if name in {plugin["name"] for plugin in api.plugins()}:
            api.restart(name, wait=0)
        else:
            api.start(name, wait=0)
        for changes in watch(folder, watch_filter=_Sources(), step=_SETTLE_MS, stop_event=over):
            names = sorted({str(Path(path).relative_to(folder)) for _, path in changes})
            _line("saved", ", ".join(names[:3]) + (" …" if len(names) > 3 else ""), "bold")
            api.restart(name, wait=0)
    raise typer.Exit(EXIT_FAILED)


class _Sources(DefaultFilter):
    """What an image is built from: neither tests nor caches."""

    def __call__(self, change: Change, path: str) -> bool:
        return super().__call__(change, path) and "tests" not in Path(path).parts[-3:]


def _narrate(name: str, after: int, over: threading.Event) -> None:
    """Prints what becomes of the plugin, as it comes. Sets `over` where it cannot, having said why."""
    try:
        with Client(address()) as api:
            begun = time.monotonic()
            for event in _of_plugin(api, name, after):
                if event["state"] == "LOADED":
                    begun = time.monotonic()
                _tell(api, event, time.monotonic() - begun)
    except ApiError as error:
        tell(error)
    over.set()


def _of_plugin(api: Client, name: str, after: int) -> Iterator[LifecycleEvent]:
    """All events are asked for: the plugin may not be known yet."""
    return (event for event in api.events(after=after, follow=True) if event["plugin"] == name)


def _tell(api: Client, event: LifecycleEvent, seconds: float) -> None:
    match event["state"]:
        case "LOADED":
            _line("starting", f"instance {event['generation']}", "cyan")
        case "INITIALIZED":
            tools = ", ".join(tool["name"] for tool in api.tools(event["plugin"]))
            _line("ready", f"after {seconds:.1f} s; tools: {tools}", "green")
        case "FAILED" | "UNAVAILABLE" if event["reason_code"] != "STOPPED":
            _line(event["state"], "", STATE_COLOURS[event["state"]])
            console.print(reason_below(str(event["reason_code"]), event["reason"]))
            _tell_texts(_buried(api, event))


def _buried(api: Client, event: LifecycleEvent) -> PluginDetail:
    """The plugin with what is kept of the instance, once that is there."""
    end = time.monotonic() + _BURIAL
    while True:
        health = api.health(event["plugin"])
        if health["post_mortem"] or health["generation"] != event["generation"] or time.monotonic() > end:
            return health
        time.sleep(0.1)


def _tell_texts(health: PluginDetail) -> None:
    """What is kept of the instance; of long texts the end, and nothing twice."""
    kept = {name: str(text or "").rstrip() for name, text in (health["post_mortem"] or {}).items()}
    told = kept.get("traceback", "").splitlines()
    log = [line.partition(" ")[2] for line in kept.get("log_tail", "").splitlines()]  # without their times
    texts = {
        "traceback": told,
        "stacks": kept.get("stacks", "").splitlines(),
        "build output": kept.get("build_output", "").splitlines()[-_LINES:],
        "log": [line for line in log if line not in told][-_LINES:],
    }
    for heading, lines in texts.items():
        if lines:
            console.print(Text(f"  {heading}", style="bold"))
        for line in lines:
            print_raw(f"    {line}")


def _line(word: str, rest: str, style: str) -> None:
    clock = f"{datetime.now().astimezone():%H:%M:%S} "
    console.print(Text.assemble((clock, "dim"), (word, style), f" {rest}"), soft_wrap=True)
