"""Commands about images: the orchestrator's own."""

import asyncio

import typer

from orchestrator.app import docker_engine, image_builder
from orchestrator.cli.client import errors
from orchestrator.cli.server import read_settings
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings


def image() -> None:
    """Build the orchestrator's own image from what is installed here, where that changed, and print its name.

    It is named plugin-orchestrator/orchestrator:latest too, which compose.yaml asks for.
    """
    try:
        name = asyncio.run(_own_image(read_settings()))
    except OrchestratorError as error:
        errors.print(f"{error}\n{getattr(error, 'tail', '')}".rstrip(), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    print(name)  # noqa: T201 - for scripts: nothing but the name


async def _own_image(settings: Settings) -> str:
    engine = docker_engine(settings)
    errors.print(
        f"making the image ready (about a minute the first time); output: {settings.state_dir}/builds",
        markup=False,
        soft_wrap=True,
    )
    try:
        built = await image_builder(settings, engine).ensure_own()
    finally:
        await engine.close()
    return next((tag for tag in built.tags if not tag.endswith(":latest")), built.id)
