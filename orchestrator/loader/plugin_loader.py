"""PluginLoader: finds the plugin folders and reads their manifests. One bad manifest never hides another plugin."""

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path

from orchestrator.errors import ManifestError
from orchestrator.loader.manifest import MANIFEST_FILE, Manifest, declared_name, read_manifest

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class DiscoveredPlugin:
    """A plugin folder: with its manifest, or with what is wrong with it."""

    name: str
    folder: Path
    manifest: Manifest | None
    error: str | None = None


class PluginLoader:
    """Discovers plugins in `directories`; every folder in one of them that holds a plugin.yaml is one."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)

    def discover(self) -> list[DiscoveredPlugin]:
        """All plugins by name, bad ones included. Never raises.

        Only a manifest that can be used lays claim to a name; a bad one whose name is taken is listed with a number.
        """
        found = sorted(
            (self._load(folder) for folder in self._folders()), key=lambda plugin: (plugin.name, str(plugin.folder))
        )
        usable = (plugin for plugin in found if plugin.manifest is not None)
        plugins = {name: _only(name, list(same)) for name, same in groupby(usable, key=lambda plugin: plugin.name)}
        for bad in (plugin for plugin in found if plugin.manifest is None):
            name = _free_name(bad.name, plugins)
            plugins[name] = replace(bad, name=name)
        return [plugins[name] for name in sorted(plugins)]

    def reload(self, plugin: DiscoveredPlugin) -> DiscoveredPlugin:
        """The plugin as its folder is now: what an operator mended counts at the next start."""
        for candidate in self.discover():
            if candidate.name == plugin.name:
                return candidate
        return DiscoveredPlugin(
            plugin.name,
            plugin.folder,
            None,
            f"No folder holds a plugin named {plugin.name!r} any more. Put it back and restart; or leave it "
            "so: the orchestrator forgets the plugin when it is itself started again.",
        )

    def unusable_directories(self) -> dict[Path, str]:
        """Configured folders that cannot be looked into → what the system says to that."""
        said = {}
        for directory in self._directories:
            try:
                next(directory.iterdir(), None)
            except OSError as error:
                said[directory] = error.strerror or str(error)
        return said

    def _folders(self) -> Iterable[Path]:
        seen: set[Path] = set()
        for directory in self._directories:
            try:
                folders = sorted(entry for entry in directory.iterdir() if (entry / MANIFEST_FILE).exists())
            except OSError:
                continue
            for folder in folders:
                resolved = folder.resolve()
                if resolved not in seen:
                    seen.add(resolved)
                    yield resolved

    @staticmethod
    def _load(folder: Path) -> DiscoveredPlugin:
        try:
            manifest = read_manifest(folder)
        except ManifestError as error:
            return DiscoveredPlugin(
                _label(declared_name(folder) or folder.name), folder, None, f"{error}. Mend it and restart."
            )
        return DiscoveredPlugin(manifest.name, folder, manifest)


def _label(text: str) -> str:
    """The nearest DNS label to what a broken manifest or a folder calls itself: it must be addressable to be seen."""
    if _NAME.fullmatch(text):
        return text
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "unnamed"


def _free_name(name: str, taken: Container[str]) -> str:
    if name not in taken:
        return name
    numbered = (f"{name[:58]}-{number}" for number in count(2))
    return next(candidate for candidate in numbered if candidate not in taken)


def _only(name: str, plugins: list[DiscoveredPlugin]) -> DiscoveredPlugin:
    """The plugin of this name; where several folders claim it, none of them: which was meant is not ours to guess."""
    if len(plugins) == 1:
        return plugins[0]
    folders = " and ".join(f"{plugin.folder.parent.name}/{plugin.folder.name}" for plugin in plugins)
    return DiscoveredPlugin(
        name, plugins[0].folder, None, f"The folders {folders} both name their plugin {name!r}. Rename one and restart."
    )
