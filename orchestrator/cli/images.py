"""Commands about images: the orchestrator's own."""

import asyncio

import typer

from orchestrator.app import own_image
from orchestrator.cli.client import errors
from orchestrator.cli.server import read_settings
from orchestrator.errors import OrchestratorError


def image() -> None:
    """Build the orchestrator's own image from what is installed here, where that changed, and print its name.

    It is named plugin-orchestrator/orchestrator:latest too, which compose.yaml asks for.
    """
    settings = read_settings()
    errors.print(
        f"making the image ready (about a minute the first time); output: {settings.state_dir}/builds",
        markup=False,
        soft_wrap=True,
    )
    try:
        built = asyncio.run(own_image(settings))
    except OrchestratorError as error:
        errors.print(f"{error}\n{getattr(error, 'tail', '')}".rstrip(), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    # For scripts: nothing but the name.
    print(next((tag for tag in built.tags if not tag.endswith(":latest")), built.id))  # noqa: T201
