"""`cache`: the folders that outlive plugins' instances, listed and cleared."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.app import docker_engine
from orchestrator.cli.console import EXIT_FAILED, AsJson, complain, console, fail, show_json
from orchestrator.cli.settings import read_settings, report_unreadable
from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import VolumeStatus
from orchestrator.deployment import read_identity
from orchestrator.errors import EngineError, NotFoundError
from orchestrator.formatting import format_size
from orchestrator.loader.image_recipe import PLUGIN_LABEL
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import LABEL_CACHE, LABEL_DEPLOYMENT, cache_labels

cache = typer.Typer(help="List and clear the plugins' caches (`cache` in a manifest).", no_args_is_help=True)


@cache.command("list")
def list_caches(*, as_json: AsJson = False) -> None:
    """List all caches of this deployment, also those of plugins that are no longer there. Exit code 1 if a manifest
    cannot be read: its limit is not known.
    """
    settings = read_settings()
    found = _by_plugin(asyncio.run(_caches(settings)))
    plugins = PluginLoader(settings.plugins_dirs).discover()
    bounds = {plugin.name: plugin.manifest.cache for plugin in plugins if plugin.manifest is not None}
    if as_json:
        show_json(
            [{"plugin": name, "size_bytes": c.size, "limit_bytes": bounds.get(name)} for name, c in found.items()]
        )
    else:
        _print(found, bounds, {plugin.name for plugin in plugins} - bounds.keys())
    if report_unreadable(settings, plugins):
        raise typer.Exit(EXIT_FAILED)


def _print(found: Mapping[str, VolumeStatus], bounds: Mapping[str, Any], unreadable: Collection[str]) -> None:
    if not found:
        console.print("There are no caches.")
        return
    table = Table("plugin", "in use", "limit")
    for name, volume in found.items():
        bound = bounds.get(name)
        in_use = "unknown" if volume.size is None else format_size(volume.size)
        none = "unknown" if name in unreadable else "not in a manifest"
        table.add_row(name, in_use, format_size(int(bound)) if bound else none)
    console.print(table)


@cache.command("clear")
def clear(
    names: Annotated[list[str], typer.Argument(help="Plugins whose caches are cleared. They must be stopped.")],
) -> None:
    """Remove caches with all that they hold. Exit code 1 if one is in use, or does not exist."""
    if not asyncio.run(_clear(read_settings(), names)):
        raise typer.Exit(EXIT_FAILED)


async def _caches(settings: Settings) -> tuple[VolumeStatus, ...]:
    engine = docker_engine(settings)
    try:
        return await _found(engine, settings)
    except EngineError as error:
        fail(f"The caches cannot be listed: {error}.")
    finally:
        await engine.close()


async def _found(engine: ContainerEngine, settings: Settings, plugin: str | None = None) -> tuple[VolumeStatus, ...]:
    deployment = read_identity(settings)
    return () if deployment is None else await engine.volumes(cache_labels(deployment, plugin))


def _by_plugin(volumes: tuple[VolumeStatus, ...]) -> dict[str, VolumeStatus]:
    named = {plugin: volume for volume in volumes if (plugin := volume.labels.get(LABEL_CACHE))}
    return dict(sorted(named.items()))


async def _clear(settings: Settings, names: list[str]) -> bool:
    engine = docker_engine(settings)
    try:
        return all([await _clear_one(engine, settings, name) for name in names])
    finally:
        await engine.close()


async def _clear_one(engine: ContainerEngine, settings: Settings, name: str) -> bool:
    try:
        volume = _by_plugin(await _found(engine, settings, name)).get(name)
        if volume is None:
            complain(name, "it has no cache; `orchestrator cache list` lists all")
            return False
        # A look first, for the sentence: the engine itself refuses to remove what a container has.
        users = await engine.list({PLUGIN_LABEL: name, LABEL_DEPLOYMENT: volume.labels[LABEL_DEPLOYMENT]})
        if users:
            complain(name, f"its container {users[0].name} has the cache; stop it first (orchestrator stop {name})")
            return False
        await engine.remove_volume(volume.name)
    except NotFoundError:
        pass  # removed meanwhile
    except EngineError as error:
        complain(name, f"its cache cannot be cleared: {error}")
        return False
    console.print(f"The cache of {name} is cleared.", markup=False)
    return True
