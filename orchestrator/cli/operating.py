"""The commands that change what runs: restart, start, stop."""

from typing import Literal

import typer

from orchestrator.cli.client import EXIT_FAILED, connected, errors
from orchestrator.cli.output import AsJson, Name, Wait, busy, console, show_json
from orchestrator.cli.tables import plugins_table

_FIRST = 120.0


def restart(name: Name, *, wait: Wait = _FIRST, as_json: AsJson = False) -> None:
    """Begin a new instance of a plugin, and wait for it. Exit code 1 where it failed."""
    _begin(name, "restart", wait, as_json=as_json)


def start(name: Name, *, wait: Wait = _FIRST, as_json: AsJson = False) -> None:
    """Begin an instance of a plugin that has none, and wait for it. Exit code 1 where it failed."""
    _begin(name, "start", wait, as_json=as_json)


def stop(name: Name, *, as_json: AsJson = False) -> None:
    """End a plugin's instance; returns when its container is gone."""
    with connected() as api, busy(f"stopping {name} …"):
        plugin = api.stop(name)
    show_json(plugin) if as_json else console.print(plugins_table([plugin]))


def _begin(name: str, action: Literal["restart", "start"], wait: float, *, as_json: bool) -> None:
    with connected() as api, busy(f"{name}: waiting for the new instance; a build takes longer …"):
        plugin = api.restart(name, wait=wait) if action == "restart" else api.start(name, wait=wait)
    show_json(plugin) if as_json else console.print(plugins_table([plugin]))
    if plugin["reason_code"] is not None:
        errors.print(f"[dim]orchestrator health {name} shows all that is known of it.[/]", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    if plugin["state"] == "LOADED" and wait:
        errors.print("[yellow]It still starts.[/] `orchestrator events -f` follows it.", soft_wrap=True)
