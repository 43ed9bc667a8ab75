"""`dev`: rebuilds and restarts a plugin whenever one of its files is saved, and shows why it failed."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import typer
from rich.text import Text
from watchfiles import Change, DefaultFilter, watch

from orchestrator.cli.connection import Name, address, connected, report
from orchestrator.cli.console import EXIT_FAILED, console, fail, print_raw
from orchestrator.cli.settings import read_settings
from orchestrator.cli.tables import STATE_COLOURS, reason_below
from orchestrator.client import ApiError, Client, LifecycleEvent, PluginDetail, RestartRefused
from orchestrator.loader.plugin_loader import PluginLoader

_MAX_LINES: Final = 15
"""Lines shown of a failed instance's log and build output."""
_POST_MORTEM_SECONDS: Final = 5.0
"""Limit until the post-mortem of an instance is stored."""
_SETTLE_MS: Final = 300
"""Milliseconds without a change after which a save is complete."""


def dev(name: Name) -> None:
    """Start a plugin, restart it whenever a file in its folder is saved, and show why it or a tool failed.

    The orchestrator must run on this machine with the same plugin folders.
    """
    settings = read_settings()
    folder = next((p.folder for p in PluginLoader(settings.plugins_dirs).discover() if p.name == name), None)
    if folder is None:
        folders = ", ".join(str(directory) for directory in settings.plugins_dirs)
        fail(f"No plugin named {name!r} in {folders}. `orchestrator new {name}` creates one.")
    with connected() as api:
        newest = [event["id"] for event in api.events(limit=1)]
        stop = threading.Event()
        # A thread, because waiting for changed files blocks.
        threading.Thread(target=_print_events, args=(name, newest[0] if newest else 0, stop), daemon=True).start()
        console.print(Text(f"Watching {folder}. Press Ctrl-C to stop."), soft_wrap=True)
        if name in {plugin["name"] for plugin in api.plugins()}:
            _restart(api, name)
        else:
            api.start(name, wait=0)
        for changes in watch(folder, watch_filter=_Sources(), step=_SETTLE_MS, stop_event=stop):
            names = sorted({str(Path(path).relative_to(folder)) for _, path in changes})
            _line("saved", ", ".join(names[:3]) + (" …" if len(names) > 3 else ""), "bold")
            _restart(api, name)
    raise typer.Exit(EXIT_FAILED)


def _restart(api: Client, name: str) -> None:
    with suppress(RestartRefused):  # which is an event too, and those are printed
        api.restart(name, wait=0)


class _Sources(DefaultFilter):
    """Files that an image is built from: no tests, no caches."""

    def __call__(self, change: Change, path: str) -> bool:
        return super().__call__(change, path) and "tests" not in Path(path).parts[-3:]


def _print_events(name: str, after: int, stop: threading.Event) -> None:
    """Print the plugin's state changes. Sets `stop` after reporting an error."""
    try:
        with Client(address()) as api:
            started = time.monotonic()
            for event in _of_plugin(api, name, after):
                if event["state"] == "LOADED" != event.get("previous"):
                    started = time.monotonic()
                _print_event(api, event, time.monotonic() - started)
    except ApiError as error:
        report(error)
    stop.set()


def _of_plugin(api: Client, name: str, after: int) -> Iterator[LifecycleEvent]:
    # Read from the events of all plugins: this one may not be registered yet.
    return (event for event in api.events(after=after, follow=True) if event["plugin"] == name)


def _print_event(api: Client, event: LifecycleEvent, seconds: float) -> None:
    match event["state"]:
        case state if state == event.get("previous") and event["reason_code"] is None:
            _line(event["reason"] or "", "", "cyan")
        case "LOADED" | "INITIALIZED" | "RUNNING" if event["reason_code"] is not None:
            _line("refused", f"instance {event['generation']} goes on", STATE_COLOURS["FAILED"])
            console.print(reason_below(event["reason_code"], event["reason"]))
            _print_texts({"build output": _build_output(api, event)})
        case "LOADED":
            _line("starting", f"instance {event['generation']}", "cyan")
        case "INITIALIZED":
            tools = ", ".join(tool["name"] for tool in api.tools(event["plugin"]))
            _line("ready", f"after {seconds:.1f} s; tools: {tools}", "green")
        case "FAILED" | "UNAVAILABLE" if event["reason_code"] != "STOPPED":
            _line(event["state"], "", STATE_COLOURS[event["state"]])
            console.print(reason_below(str(event["reason_code"]), event["reason"]))
            _print_post_mortem(_with_post_mortem(api, event))


def _with_post_mortem(api: Client, event: LifecycleEvent) -> PluginDetail:
    """The plugin once the post-mortem of its instance is stored."""
    end = time.monotonic() + _POST_MORTEM_SECONDS
    while True:
        health = api.health(event["plugin"])
        if health["post_mortem"] or health["generation"] != event["generation"] or time.monotonic() > end:
            return health
        time.sleep(0.1)


def _print_post_mortem(health: PluginDetail) -> None:
    """Print the post-mortem's texts: the end of long ones, no line twice."""
    stored = {name: str(text or "").rstrip() for name, text in (health["post_mortem"] or {}).items()}
    traceback = stored.get("traceback", "").splitlines()
    log = [line.partition(" ")[2] for line in stored.get("log_tail", "").splitlines()]  # without timestamps
    texts = {
        "traceback": traceback,
        "stacks": stored.get("stacks", "").splitlines(),
        "build output": stored.get("build_output", "").splitlines()[-_MAX_LINES:],
        "log": [line for line in log if line not in traceback][-_MAX_LINES:],
    }
    _print_texts(texts)


def _build_output(api: Client, event: LifecycleEvent) -> list[str]:
    """The end of the build that failed."""
    return (
        list(api.logs(event["plugin"], tail=_MAX_LINES, build=True)) if event["reason_code"] == "BUILD_FAILED" else []
    )


def _print_texts(texts: Mapping[str, list[str]]) -> None:
    for heading, lines in texts.items():
        if lines:
            console.print(Text(f"  {heading}", style="bold"))
        for line in lines:
            print_raw(f"    {line}")


def _line(word: str, rest: str, style: str) -> None:
    clock = f"{datetime.now().astimezone():%H:%M:%S} "
    console.print(Text.assemble((clock, "dim"), (word, style), f" {rest}"), soft_wrap=True)
