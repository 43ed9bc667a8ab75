"""`build`: the images of plugins, two at a time, each with its last line of output."""

import asyncio
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from orchestrator.app import docker_engine, image_builder
from orchestrator.cli.client import EXIT_FAILED, complain, errors, fail
from orchestrator.cli.configured import read_settings
from orchestrator.errors import OrchestratorError
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.settings import Settings


def build(
    names: Annotated[list[str] | None, typer.Argument(help="Plugins to build; all when none is named.")] = None,
) -> None:
    """Build the images of plugins, those that changed. Exit code 1 where one failed."""
    settings = read_settings()
    found = {plugin.name: plugin for plugin in PluginLoader(settings.plugins_dirs).discover()}
    unknown = set(names or ()) - found.keys()
    if unknown:
        fail(f"There is no plugin {', '.join(sorted(unknown))}; there are {', '.join(found) or 'none'}.")
    if not asyncio.run(_build_all(settings, [found[name] for name in names or found])):
        raise typer.Exit(EXIT_FAILED)


async def _build_all(settings: Settings, plugins: list[DiscoveredPlugin]) -> bool:
    engine = docker_engine(settings)
    builder = image_builder(settings, engine)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    try:
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
            built = await asyncio.gather(*(_build(builder, plugin, progress) for plugin in plugins))
    finally:
        await engine.close()
    return all(built)


async def _build(builder: ImageBuilder, plugin: DiscoveredPlugin, progress: Progress) -> bool:
    if plugin.manifest is None:
        complain(plugin.name, plugin.error or "its manifest cannot be used")
        return False
    task = progress.add_task(plugin.name)
    try:
        image = await builder.ensure_plugin(
            ImageRecipe.of(plugin.manifest, plugin.folder), lambda line: _tell(progress, task, plugin.name, line)
        )
    except OrchestratorError as error:
        complain(plugin.name, f"{error}\n{getattr(error, 'tail', '')}".rstrip())
        return False
    finally:
        progress.remove_task(task)
    errors.print(Text.assemble((plugin.name, "bold"), f": {image.tags[0] if image.tags else image.id}"), soft_wrap=True)
    return True


def _tell(progress: Progress, task: TaskID, name: str, line: str) -> None:
    room = max(10, errors.width - len(name) - 16)
    progress.update(task, description=f"{name}: {' '.join(line.split())[:room]}")
