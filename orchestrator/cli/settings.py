"""What commands that work on this machine read first: the settings, and the plugins. Separate from `console`: `serve`
must not import rich.
"""

from collections.abc import Iterable

import typer
from pydantic import ValidationError

from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
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


def report_unreadable(settings: Settings, plugins: Iterable[DiscoveredPlugin]) -> bool:
    """Complain of each of these manifests, and of each folder of plugins, that cannot be read; whether there is one."""
    from orchestrator.cli.console import complain  # noqa: PLC0415  # imports rich

    problems = {
        str(folder): f"this folder of plugins cannot be read ({problem}); correct ORCHESTRATOR_PLUGINS_DIRS"
        for folder, problem in PluginLoader(settings.plugins_dirs).unusable_directories().items()
    } | {plugin.name: plugin.error or "its manifest is not valid" for plugin in plugins if plugin.manifest is None}
    for subject, problem in problems.items():
        complain(subject, problem)
    return bool(problems)
