"""FileFetcher: the files of a run's result, from the container to where they are stored; references in the result."""

import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Final

import msgspec

from orchestrator.errors import ChannelError, OrchestratorError
from orchestrator.formatting import format_size, quoted
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.sandbox.answers import AnnouncedFile
from orchestrator.sandbox.call import FileStore, OutputFile
from orchestrator.sandbox.deadline import Deadline

MAX_FILES: Final = 10_000
"""Of one run: each is a file on this host's disk too."""
_MAX_NAME: Final = 120  # bytes
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}(;[\x20-\x7e]{1,70})?")
_BLOCK: Final = 256 * 1024  # bytes that are stored at a time
_UNKNOWN_TYPE: Final = "application/octet-stream"
# A mark that is a whole string, and no key of an object. Within a longer string its first quote would be escaped.
_MARK: Final = re.compile(rb'(?<!\\)"(plugin-file:[0-9a-f]{32})"(?!\s*:)')


class OutputRefusedError(OrchestratorError):
    """The plugin gives files that it may not give, or not those that it announced."""


class FileFetcher:
    """Fetches the files of one run, of at most `limit` bytes together. The clock of `deadline` stands while this host's
    own disk is waited for.
    """

    def __init__(
        self, channel: RuntimeChannel, run_id: str, store: FileStore | None, deadline: Deadline, *, limit: int
    ) -> None:
        self.files: list[OutputFile] = []
        """Those that are stored."""
        self._channel = channel
        self._run_id = run_id
        self._store = store
        self._deadline = deadline
        self._limit = limit
        self._size = 0
        self._names: set[str] = set()

    async def fetch(self, announced: Sequence[AnnouncedFile], text: bytes) -> bytes:
        """Store what is announced. Returns `text`, which is JSON, with a reference in place of each mark.

        Raises `OutputRefusedError`, `StorageError`, and `ChannelError` where the container gives no answer.
        """
        if self._store is None:
            return text
        for file in announced:
            self._admit(file)
        references = {}
        for file in announced:
            stored = await self._fetch(self._store, file)
            self.files.append(stored)
            references[file.mark.encode()] = msgspec.json.encode(stored.reference(self._run_id))
        # Each mark once: a result of many marks must not grow a hundredfold.
        return _MARK.sub(lambda found: references.pop(found[1], found[0]), text)

    async def release(self) -> None:
        """Let the container drop its own copies."""
        with suppress(ChannelError):  # it does so by itself, though later
            await self._channel.forget(self._run_id)

    def _admit(self, file: AnnouncedFile) -> None:
        if not _is_name(file.name) or file.name.lower() in self._names:
            raise OutputRefusedError(f"the plugin announces a file by the name {quoted(file.name)}, which cannot be")
        self._names.add(file.name.lower())
        self._size += file.size
        if self._size > self._limit:
            raise OutputRefusedError(
                f"the files of the run are over the limit of {format_size(self._limit)} (`limits.output`)"
            )
        if len(self._names) > MAX_FILES:
            raise OutputRefusedError(f"the run gives more than {MAX_FILES} files")

    async def _fetch(self, store: FileStore, file: AnnouncedFile) -> OutputFile:
        media_type = file.media_type if _MEDIA_TYPE.fullmatch(file.media_type) else _UNKNOWN_TYPE
        async with self._channel.file_of(self._run_id, file.name) as response:
            if response.status != 200:
                raise OutputRefusedError(f"the plugin does not give the file {file.name}, which it announced")
            async with aclosing(self._checked(response.chunks(), file)) as chunks:
                return await store.write(file.name, media_type, file.size, chunks)

    async def _checked(self, chunks: AsyncIterator[bytes], file: AnnouncedFile) -> AsyncGenerator[bytes, None]:
        size, block = 0, bytearray()
        async for chunk in chunks:
            size += len(chunk)
            if size > file.size:
                break
            block += chunk
            # Not each chunk by itself: a plugin that sends single bytes would stop the clock for each.
            if len(block) >= _BLOCK:
                with self._deadline.paused():
                    yield bytes(block)
                block.clear()
        if size == file.size and block:
            with self._deadline.paused():
                yield bytes(block)
        if size != file.size:
            raise OutputRefusedError(
                f"the file {file.name} has changed after the tool gave it: it had {file.size} bytes; give a file once "
                "it is complete"
            )


def _is_name(name: str) -> bool:
    """Whether a file may have this name on any disk: letters and digits of any script, and `._-`. It neither hides the
    file nor looks like an option.
    """
    kinds = [unicodedata.category(letter)[0] for letter in name]
    fits = all(kind in "LMN" or letter in "._-" for letter, kind in zip(name, kinds, strict=True))
    starts = name[:1] == "_" or kinds[:1] in (["L"], ["N"])
    return fits and starts and len(name.encode()) <= _MAX_NAME and unicodedata.is_normalized("NFC", name)
