"""The command table and the entry point. Only the module of the command that was called is imported."""

import gc
import os
import sys
from importlib import import_module
from typing import Annotated, Final

import typer

_HIDDEN: Final = "hidden"
_VERSION: Final = "--version"
_COMMANDS: Final[dict[str, tuple[str, str | None]]] = {
    "serve": ("serve", None),
    "front": ("front", None),
    "up": ("background", _HIDDEN),
    "down": ("background", _HIDDEN),
    "plugins": ("plugins", "Inspect"),
    "health": ("plugins", "Inspect"),
    "tools": ("plugins", "Inspect"),
    "logs": ("plugins", "Inspect"),
    "events": ("plugins", "Inspect"),
    "gpus": ("plugins", "Inspect"),
    "explain": ("explain", "Inspect"),
    "run": ("runs", "Run"),
    "runs": ("runs", "Run"),
    "mcp": ("mcp", "Run"),
    "restart": ("operate", "Operate"),
    "start": ("operate", "Operate"),
    "update": ("updates", "Operate"),
    "revert": ("updates", "Operate"),
    "updates": ("updates", "Inspect"),
    "scale": ("operate", "Operate"),
    "park": ("operate", "Operate"),
    "stop": ("operate", "Operate"),
    "move": ("hosts", "Operate"),
    "hosts": ("hosts", "Operate"),
    "models": ("models", "Operate"),
    "image": ("images", "Operate"),
    "doctor": ("doctor", "Operate"),
    "cache": ("cache", "Operate"),
    "audit": ("audit", "Operate"),
    "keys": ("keys", "Operate"),
    "hooks": ("hooks", "Operate"),
    "new": ("scaffold", "Write plugins"),
    "dev": ("dev", "Write plugins"),
    "build": ("images", "Write plugins"),
    "schema": ("scaffold", "Write plugins"),
    "check-image": ("images", "Write plugins"),
}
"""Command → module and panel in --help. In the module it is a function or, with subcommands, a Typer app."""


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        typer.echo(f"orchestrator {import_module('plugin_runtime').__version__}")
        raise typer.Exit


def _without_command(
    *,
    version: Annotated[
        bool, typer.Option(_VERSION, help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before any command."""


def command_line(command: str = "") -> typer.Typer:
    """The app with `command` alone; with none for --version; with all commands for anything else, such as --help."""
    app = typer.Typer(
        help="Run machine-learning plugins, each in its own container, and show the state of each.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        callback=_without_command,  # also keeps a single command a subcommand of `orchestrator`
    )
    # Importing every module takes two seconds, so only --help and typing errors pay for it.
    for name in () if command == _VERSION else [command] if command in _COMMANDS else _COMMANDS:
        module, panel = _COMMANDS[name]
        found = getattr(import_module(f"orchestrator.cli.{module}"), name.replace("-", "_"))
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel, hidden=panel is _HIDDEN)(found)
    return app


def main() -> None:
    """The entry point of `orchestrator`."""
    completed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS")  # by bash, by another shell
    command = (completed.split() if completed else sys.argv)[1:2]
    gc.disable()  # imported modules stay for good: collecting among them takes time and finds nothing
    app = command_line(*command)
    gc.freeze()
    gc.enable()
    app()
