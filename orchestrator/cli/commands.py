"""The operator's command line: here the commands that are clients of the API, as any other; `local` has the rest."""

import os
import sys
from importlib import import_module
from typing import Final

import typer

from orchestrator.cli import operating, reading, running, runs

app = typer.Typer(
    help="Runs plugins, each in its own container, and says how every one of them is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_LOOKING: Final = (reading.plugins, reading.health, reading.tools, reading.logs, reading.events, reading.gpus)
_CHANGING: Final = (operating.restart, operating.start, operating.stop)
_OF_THE_API: Final = frozenset({"run", "runs", *(command.__name__ for command in (*_LOOKING, *_CHANGING))})

for looking in _LOOKING:
    app.command(rich_help_panel="Look")(looking)
app.command(rich_help_panel="Run")(running.run)
app.add_typer(runs.app, name="runs", rich_help_panel="Run")
for changing in _CHANGING:
    app.command(rich_help_panel="Operate")(changing)


def main() -> None:
    """The entry point of `orchestrator`."""
    completed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS")  # by bash, by another shell
    if not _OF_THE_API.intersection((completed.split() if completed else sys.argv)[1:2]):
        import_module("orchestrator.cli.local")  # takes a second, which a look at plugins need not
    app()
