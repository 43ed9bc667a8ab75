"""The settings, for the commands that work here; each mistake in them is one line."""

import typer
from pydantic import ValidationError

from orchestrator.settings import Settings


def read_settings() -> Settings:
    """The settings; leaves the program with one line a mistake."""
    try:
        return Settings()
    except ValidationError as error:
        # rich and the HTTP client, which a process that serves is to do without.
        from orchestrator.cli.client import EXIT_USAGE, complain  # noqa: PLC0415

        for item in error.errors():
            complain("ORCHESTRATOR_" + "_".join(str(part) for part in item["loc"]).upper(), item["msg"])
        raise typer.Exit(EXIT_USAGE) from None
