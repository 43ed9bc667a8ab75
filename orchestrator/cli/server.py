"""The commands that need no running orchestrator: `serve` and `build`."""

import asyncio
import logging
import signal
from typing import Annotated

import typer
import uvicorn
from pydantic import ValidationError

from orchestrator.app import create_app, docker_engine, image_builder
from orchestrator.cli.client import EXIT_USAGE, errors, fail
from orchestrator.deployment import StateFolderError, claim
from orchestrator.errors import OrchestratorError
from orchestrator.loader.image_builder import ImageRecipe
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.settings import Settings


def read_settings() -> Settings:
    """The settings; leaves the program with one line a mistake."""
    try:
        return Settings()
    except ValidationError as error:
        for item in error.errors():
            name = "ORCHESTRATOR_" + "_".join(str(part) for part in item["loc"]).upper()
            errors.print(f"[red]{name}[/]: {item['msg']}")
        raise typer.Exit(EXIT_USAGE) from None


def serve(
    *, stop_plugins: Annotated[bool, typer.Option(help="On SIGTERM take the plugins' containers down too.")] = False
) -> None:
    """Run the orchestrator in the foreground until SIGTERM."""
    settings = read_settings()
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    try:
        claim(settings).lock.release()  # so that a second orchestrator is told in one line, before the server starts
    except StateFolderError as error:
        fail(str(error))
    config = uvicorn.Config(
        create_app(settings, stop_plugins=stop_plugins),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=None,
        server_header=False,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again once all is done; a clean stop is exit code 0
    uvicorn.Server(config).run()


def build(
    names: Annotated[list[str] | None, typer.Argument(help="Plugins to build; all when none is named.")] = None,
) -> None:
    """Build the images of plugins, those that changed. Exit code 1 where one failed."""
    settings = read_settings()
    found = {plugin.name: plugin for plugin in PluginLoader(settings.plugins_dirs).discover()}
    unknown = set(names or ()) - found.keys()
    if unknown:
        fail(f"There is no plugin {', '.join(sorted(unknown))}; there are {', '.join(found) or 'none'}.")
    if not asyncio.run(_build(settings, [found[name] for name in names or found])):
        raise typer.Exit(1)


async def _build(settings: Settings, plugins: list[DiscoveredPlugin]) -> bool:
    engine = docker_engine(settings)
    builder = image_builder(settings, engine)
    good = True
    try:
        for plugin in plugins:
            if plugin.manifest is None:
                errors.print(f"[red]{plugin.name}[/]: {plugin.error}")
                good = False
                continue
            errors.print(f"[bold]{plugin.name}[/]: making its image ready …")
            recipe = ImageRecipe.of(plugin.manifest, plugin.folder)
            try:
                image = await builder.ensure_plugin(recipe)
            except OrchestratorError as error:
                errors.print(f"[red]{plugin.name}[/]: {error}\n{getattr(error, 'tail', '')}", markup=True)
                good = False
            else:
                errors.print(f"[bold]{plugin.name}[/]: {image.tags[0] if image.tags else image.id}")
    finally:
        await engine.close()
    return good
