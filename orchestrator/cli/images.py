"""`build`, `image` and `check-image`: plugins' images, the orchestrator's own, and the check of any image."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from orchestrator import conformance
from orchestrator.app import docker_engine, image_builder, own_image, testing_image
from orchestrator.cli.console import EXIT_FAILED, EXIT_USAGE, complain, console, errors, fail
from orchestrator.cli.settings import read_settings
from orchestrator.conformance import ANY_ENTRYPOINT
from orchestrator.errors import OrchestratorError
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.settings import Settings


def build(
    names: Annotated[list[str] | None, typer.Argument(help="Plugins to build; all by default.")] = None,
) -> None:
    """Build the images of plugins that changed. Exit code 1 if a build failed."""
    settings = read_settings()
    found = {plugin.name: plugin for plugin in PluginLoader(settings.plugins_dirs).discover()}
    unknown = set(names or ()) - found.keys()
    if unknown:
        fail(f"No plugin named {', '.join(sorted(unknown))}. Plugins: {', '.join(found) or 'none'}.")
    if not asyncio.run(_build_all(settings, [found[name] for name in names or found])):
        raise typer.Exit(EXIT_FAILED)


async def _build_all(settings: Settings, plugins: list[DiscoveredPlugin]) -> bool:
    engine = docker_engine(settings)
    builder = image_builder(settings, engine)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    try:
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
            # All at once: the builder limits how many builds run in parallel.
            built = await asyncio.gather(*(_build(builder, plugin, progress) for plugin in plugins))
    finally:
        await engine.close()
    return all(built)


async def _build(builder: ImageBuilder, plugin: DiscoveredPlugin, progress: Progress) -> bool:
    if plugin.manifest is None:
        complain(plugin.name, plugin.error or "its manifest is not valid")
        return False
    task = progress.add_task(plugin.name)
    try:
        image = await builder.ensure_plugin(
            ImageRecipe.of(plugin.manifest, plugin.folder), lambda line: _show_line(progress, task, plugin.name, line)
        )
    except OrchestratorError as error:
        complain(plugin.name, f"{error}\n{getattr(error, 'tail', '')}".rstrip())
        return False
    finally:
        progress.remove_task(task)
    errors.print(Text.assemble((plugin.name, "bold"), f": {image.tags[0] if image.tags else image.id}"), soft_wrap=True)
    return True


def _show_line(progress: Progress, task: TaskID, name: str, line: str) -> None:
    room = max(10, errors.width - len(name) - 16)
    progress.update(task, description=f"{name}: {' '.join(line.split())[:room]}")


def image(
    *,
    testing: Annotated[
        bool, typer.Option(help="That for tests of other projects, which makes faults on demand.")
    ] = False,
) -> None:
    """Build the orchestrator's own image from the installed version, if that changed, and print its name.

    It is also tagged plugin-orchestrator/orchestrator:latest, which compose.yaml uses.
    """
    settings = read_settings()
    errors.print(
        f"building the image (about a minute the first time); output: {settings.state_dir}/builds",
        markup=False,
        soft_wrap=True,
    )
    try:
        built = asyncio.run(testing_image(settings) if testing else own_image(settings))
    except OrchestratorError as error:
        errors.print(f"{error}\n{getattr(error, 'tail', '')}".rstrip(), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    # Scripts read stdout: nothing but the name.
    print(next((tag for tag in built.tags if not tag.endswith(":latest")), built.id))  # noqa: T201


def check_image(
    image: Annotated[str, typer.Argument(help="Name or id of an image that the engine has.")],
    *,
    call: Annotated[str | None, typer.Option(help="Also call this tool of the image.")] = None,
    arguments: Annotated[str, typer.Option(help="Valid arguments for that tool, as a JSON object.")] = "{}",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value, like `env` in a manifest; repeatable.")
    ] = None,
    entrypoint: Annotated[str, typer.Option(help="Like `entrypoint` in a manifest.")] = ANY_ENTRYPOINT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check an image against the runtime protocol (PROTOCOL.md), rule by rule. Exit code 1 if a rule is broken."""
    settings = read_settings()
    try:
        given: Any = json.loads(arguments)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        errors.print("--arguments: expected a JSON object", markup=False)
        raise typer.Exit(EXIT_USAGE)
    environment = dict(item.partition("=")[::2] for item in env or ())
    try:
        results = asyncio.run(_check(settings, image, (call, given) if call else None, environment, entrypoint))
    except (OrchestratorError, OSError, ValueError) as error:
        errors.print(str(error), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from None
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))  # noqa: T201 - for programs
    else:
        for result in results:
            colour = {"ok": "green", "broken": "bold red"}.get(result.outcome, "dim")
            row = Text.assemble((f"{result.outcome:<12}", colour), (f"{result.rule:<18}", "bold"), result.demands)
            if result.detail:
                row.append(f"\n{'':<12}{result.detail}")
            console.print(row, soft_wrap=True)
    if any(result.outcome == "broken" for result in results):
        raise typer.Exit(1)


async def _check(
    settings: Settings,
    image: str,
    call: tuple[str, dict[str, Any]] | None,
    environment: dict[str, str],
    entrypoint: str,
) -> list[conformance.Result]:
    engine = docker_engine(settings)
    try:
        return await conformance.check_image(
            engine, image, settings, call=call, environment=environment, entrypoint=entrypoint
        )
    finally:
        await engine.close()
