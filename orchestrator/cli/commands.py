"""The operator's command line: which commands there are. Only the module of the one that is asked for is imported."""

import gc
import os
import sys
from importlib import import_module
from typing import Annotated, Final

import typer

_HIDDEN: Final = "hidden"
_VERSION: Final = "--version"
_COMMANDS: Final[dict[str, tuple[str, str | None]]] = {
    "serve": ("server", None),
    "up": ("background", _HIDDEN),
    "down": ("background", _HIDDEN),
    "plugins": ("reading", "Look"),
    "health": ("reading", "Look"),
    "tools": ("reading", "Look"),
    "logs": ("reading", "Look"),
    "events": ("reading", "Look"),
    "gpus": ("reading", "Look"),
    "run": ("running", "Run"),
    "runs": ("runs", "Run"),
    "restart": ("operating", "Operate"),
    "start": ("operating", "Operate"),
    "stop": ("operating", "Operate"),
    "image": ("images", "Operate"),
    "doctor": ("doctor", "Operate"),
    "audit": ("audit", "Operate"),
    "keys": ("keys", "Operate"),
    "new": ("new", "Write plugins"),
    "dev": ("dev", "Write plugins"),
    "build": ("building", "Write plugins"),
    "schema": ("schema", "Write plugins"),
    "check-image": ("images", "Write plugins"),
}
"""The module of each, and its place in --help. In the module it is a function, or `app` where it has commands below."""


def _tell_version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        typer.echo(f"orchestrator {import_module('plugin_runtime').__version__}")
        raise typer.Exit


def _without_command(
    *,
    version: Annotated[
        bool, typer.Option(_VERSION, help="Print the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """What the command line takes before any command."""


def command_line(asked: str = "") -> typer.Typer:
    """With the command of that name only; with none for --version; with all for what else there is, as --help, which
    takes two seconds.
    """
    app = typer.Typer(
        help="Runs plugins, each in its own container, and says how every one of them is.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        callback=_without_command,  # also so that a command which is alone stays one below `orchestrator`
    )
    for name in () if asked == _VERSION else [asked] if asked in _COMMANDS else _COMMANDS:
        place, panel = _COMMANDS[name]
        module = import_module(f"orchestrator.cli.{place}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, rich_help_panel=panel)
        else:
            function = getattr(module, name.replace("-", "_"))
            app.command(name, rich_help_panel=panel, hidden=panel is _HIDDEN)(function)
    return app


def main() -> None:
    """The entry point of `orchestrator`."""
    completed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS")  # by bash, by another shell
    asked = (completed.split() if completed else sys.argv)[1:2]
    gc.disable()  # what is imported stays: looking for garbage among it, then or later, takes its time and finds none
    app = command_line(*asked)
    gc.freeze()
    gc.enable()
    app()
