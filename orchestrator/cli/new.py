"""`new`: a plugin to begin with."""

import re
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.client import fail, misused
from orchestrator.cli.configured import read_settings
from orchestrator.cli.output import called_as, console
from orchestrator.cli.scaffold import Kind, package_of, scaffold
from orchestrator.loader.plugin_loader import PluginLoader


def new(
    name: Annotated[str, typer.Argument(help="A DNS label: small letters, digits and hyphens.")],
    *,
    kind: Annotated[Kind, typer.Option(help="What its first tool takes and gives.")] = Kind.TEXT,
    into: Annotated[
        Path | None, typer.Option(help="The folder of plugin folders; the first of ORCHESTRATOR_PLUGINS_DIRS.")
    ] = None,
) -> None:
    """Make the folder of a new plugin: manifest, class, sample and tests, which pass at once."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        misused(repr(name), "expected small letters, digits and hyphens, such as page-counter")
    settings = read_settings()
    taken = {plugin.name for plugin in PluginLoader(settings.plugins_dirs).discover()}
    if name in taken:
        fail(f"There is a plugin {name!r} already.")
    folder = (into or settings.plugins_dirs[0]) / package_of(name)
    if folder.exists():
        fail(f"{folder} is there already.")
    try:
        for path, content in scaffold(name, kind).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    except OSError as error:
        fail(f"{folder} cannot be made: {error.strerror}")
    program = called_as()
    steps = {
        f"{Path(program).with_name('pytest')} {folder}": "its tests, in a container too where an engine is there",
        f"{program} dev {name}": "start it, and anew whenever a file is saved",
        f"{program} tools {name}": "what it can do, once it has started",
    }
    width = max(map(len, steps))
    lines = (f"  {step:<{width}}   {what}" for step, what in steps.items())
    console.print("\n".join((f"{folder}/ is there. Next, try:", *lines)), markup=False, soft_wrap=True)
