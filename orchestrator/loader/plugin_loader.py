"""PluginLoader: discovers plugin folders and reads their manifests. A bad manifest never hides another plugin."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path

from orchestrator.errors import ManifestError
from orchestrator.loader.manifest import MANIFEST_FILE, Manifest, declared_name, read_manifest

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class DiscoveredPlugin:
    """A plugin folder with its manifest, or with the error in it."""

    name: str
    folder: Path
    manifest: Manifest | None
    error: str | None = None


class PluginLoader:
    """Discovers plugins: the folders in `directories` that contain a plugin.yaml."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)

    def discover(self) -> list[DiscoveredPlugin]:
        """All plugins by name, bad ones included. Raises nothing.

        Valid manifests have priority on a name; a bad one with the same name is listed with a number.
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
        """The plugin as its folder is now, so that an operator's fix takes effect at the next start."""
        for candidate in self.discover():
            if candidate.name == plugin.name:
                return candidate
        return DiscoveredPlugin(
            plugin.name,
            plugin.folder,
            None,
            f"The folder of the plugin {plugin.name!r} was removed. Put it back, then restart the plugin; or leave it "
            "so, and the plugin leaves the list.",
        )

    def missing(self, folders: Mapping[str, Path]) -> set[str]:
        """The plugins, of these names and folders, that are in no plugin folder any more. Not those whose whole
        directory is missing: it may be a file system that is not mounted.
        """
        missing = {name for name, folder in folders.items() if _was_removed(folder)}
        # It may have been moved.
        return missing - {plugin.name for plugin in self.discover()} if missing else missing

    def unusable_directories(self) -> dict[Path, str]:
        """Configured directory that cannot be read → the system's error message."""
        errors = {}
        for directory in self._directories:
            try:
                next(directory.iterdir(), None)
            except OSError as error:
                errors[directory] = error.strerror or str(error)
        return errors

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
                _label(declared_name(folder) or folder.name), folder, None, f"{error}. Fix it, then restart the plugin."
            )
        return DiscoveredPlugin(manifest.name, folder, manifest)


def _was_removed(folder: Path) -> bool:
    try:
        return not (folder / MANIFEST_FILE).exists() and folder.parent.is_dir()
    except OSError:
        return False


def _label(text: str) -> str:
    """The nearest DNS label to the name in a broken manifest or of a folder."""
    # A plugin has to be addressable in a route to be seen.
    if _NAME.fullmatch(text):
        return text
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "unnamed"


def _free_name(name: str, taken: Container[str]) -> str:
    if name not in taken:
        return name
    numbered = (f"{name[:58]}-{number}" for number in count(2))
    return next(candidate for candidate in numbered if candidate not in taken)


def _only(name: str, plugins: list[DiscoveredPlugin]) -> DiscoveredPlugin:
    """The plugin of this name; an error where several folders claim it, because any choice would be a guess."""
    if len(plugins) == 1:
        return plugins[0]
    folders = " and ".join(f"{plugin.folder.parent.name}/{plugin.folder.name}" for plugin in plugins)
    return DiscoveredPlugin(
        name,
        plugins[0].folder,
        None,
        f"The folders {folders} both name their plugin {name!r}. Rename one, then restart the plugin.",
    )
