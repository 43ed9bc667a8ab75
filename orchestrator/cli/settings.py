"""The settings for commands that work on this machine. Separate from `console`: `serve` must not import rich."""

import typer
from pydantic import ValidationError

from orchestrator.settings import Settings


def read_settings() -> Settings:
    """The settings; exits with one line per mistake."""
    try:
        return Settings()
    except ValidationError as error:
        from orchestrator.cli.console import EXIT_USAGE, complain  # noqa: PLC0415  # imports rich: only on this path

        for item in error.errors():
            complain("ORCHESTRATOR_" + "_".join(str(part) for part in item["loc"]).upper(), item["msg"])
        raise typer.Exit(EXIT_USAGE) from None
