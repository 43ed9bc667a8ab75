"""ReleaseStore: the files of what `releases` says of all plugins. ReleaseFile: that of one plugin."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any, Final

import msgspec

from orchestrator.errors import OrchestratorError
from orchestrator.supervisor.releases import Held, PluginReleases, Release, held_for, idled, started, switched, woken

_SUFFIX: Final = ".json"
_log = logging.getLogger(__name__)


class ReleaseStoreError(OrchestratorError):
    """The file cannot be written; the text says where and why. What was to be done must not be."""


class ReleaseStore:
    """The files. A write returns when it is on the disk, after some milliseconds. Threads may write at the same time,
    each for another plugin.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[str, PluginReleases] = {}

    def load(self) -> None:
        """Read all files. One that cannot be read is set aside, with a line in the log."""
        with suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                if path.name.startswith("."):  # what a killed orchestrator had begun to write
                    path.unlink(missing_ok=True)
                elif path.suffix == _SUFFIX:
                    self._load(path)

    def get(self, plugin: str) -> PluginReleases:
        return self._states.get(plugin, PluginReleases())

    def images(self, plugin: str) -> frozenset[str]:
        """Ids of the plugin's images that no clean-up may remove."""
        return self.get(plugin).images

    def write(self, plugin: str, state: PluginReleases) -> None:
        """Raises `ReleaseStoreError`, with what was on file still there."""
        if state == self.get(plugin):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=f".{plugin}.")  # mode 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
                    file.flush()
                    os.fsync(descriptor)
                Path(temporary).replace(self._folder / f"{plugin}{_SUFFIX}")
            except BaseException:
                with suppress(OSError):
                    Path(temporary).unlink()
                raise
            _sync_folder(self._folder)
        except OSError as error:
            raise ReleaseStoreError(
                f"The releases of {plugin} cannot be written to the state folder: {error.strerror}. Make room there, "
                "or correct its permissions."
            ) from None
        self._states[plugin] = state

    def _load(self, path: Path) -> None:
        try:
            self._states[path.stem] = msgspec.json.decode(path.read_bytes(), type=PluginReleases)
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            _log.warning("%s cannot be read, and is set aside: %s", path, error)
            with suppress(OSError):
                path.replace(path.with_suffix(".unreadable"))


class ReleaseFile:
    """One plugin's file. Its changes are made one after the other."""

    def __init__(self, store: ReleaseStore, plugin: str, *, placed: bool = False) -> None:
        """`placed`: a front places plugins, so that it is on file which of them were started here."""
        self._store = store
        self._plugin = plugin
        self._placed = placed
        self._alone = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> PluginReleases:
        return self._store.get(self._plugin)

    async def change(self, change: Callable[[PluginReleases], PluginReleases]) -> None:
        """Returns when `change` of the state is on the disk. Raises `ReleaseStoreError`, with nothing changed."""
        async with self._alone:
            writing = asyncio.ensure_future(asyncio.to_thread(self._store.write, self._plugin, change(self.state)))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait((writing,))  # else the next change would be made beside this one
                writing.exception()
                raise

    async def hold(self, held: Held | None) -> None:
        """Have it on file whether the orchestrator's next start begins instances; a command is obeyed without."""
        loses = f"the orchestrator's next start will not know that it is {held}"
        await self._change_or_warn(lambda state: held_for(state, held, placed=self._placed), loses)

    def switched_soon(self) -> None:
        """Have it on file, in the background, that an update has begun instances."""
        loses = "the orchestrator's next start will not know that it runs"
        self._spawn(self._change_or_warn(lambda state: switched(state, placed=self._placed), loses))

    def idled_soon(self) -> None:
        """Have it on file, in the background, that it was parked without a command."""
        self._spawn(self._change_or_warn(idled, "the orchestrator's next start will not know that it is parked"))

    def woken_soon(self) -> None:
        """Have it on file, in the background, that a run begins it again."""
        self._spawn(self._change_or_warn(woken, "the orchestrator's next start will not know that it runs"))

    def record_soon(self, release: Release) -> None:
        """Have it on file, in the background, that a start or restart brought up an instance of it."""
        self._spawn(self._change_or_warn(lambda state: started(state, release), "a revert will not know this release"))

    async def written(self) -> None:
        """Returns when what was to be written in the background is on the disk, or could not be."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Give up what is to be written in the background."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _change_or_warn(self, change: Callable[[PluginReleases], PluginReleases], loses: str) -> None:
        try:
            await self.change(change)
        except ReleaseStoreError as error:
            _log.warning("%s: %s: %s", self._plugin, loses, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: what it logs is not the run's that happens to come.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
