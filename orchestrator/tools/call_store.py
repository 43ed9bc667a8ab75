"""Calls that wait: bodies in files, and a store for the calls of runs that the next orchestrator is to start.

In the store each is a file: a line of JSON with the members of the call, then its body.
"""

import asyncio
import logging
import os
import tempfile
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Self

import msgspec

from orchestrator.access.principal import EQUAL_SHARE, Share
from orchestrator.sandbox.call import BodyError, Outcome, StreamedBody, ToolCall, is_run_id

_CHUNK: Final = 256 * 1024
"""Bytes that are read at a time; a stored body of no more is read whole."""
_UNFINISHED: Final = ".part"
_MAX_HEAD: Final = 1024 * 1024  # bytes of the first line

_log = logging.getLogger(__name__)


class _Head(msgspec.Struct):
    """A call without its body."""

    tool: str
    run_id: str
    content_type: str
    query: str
    trace: dict[str, str]
    body_headers: dict[str, str]
    keep: bool
    id_chosen: bool
    # Not in what an older orchestrator has stored.
    retry: bool = False
    caller: str | None = None
    share: Share = EQUAL_SHARE


_MEMBERS: Final = _Head.__struct_fields__


class SpooledBody:
    """A `StreamedBody` from a file without a name, which is deleted with this object. To be read once."""

    def __init__(self, descriptor: int) -> None:
        """Read from the descriptor's position; it is closed with this object."""
        self.passed_on = 0
        self.complete = False
        self.received = True
        self.failure: BodyError | None = None
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(cls, folder: Path, start: bytes) -> Self:
        """A new file that begins with `start`. Raises `OSError`, as `write` does."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, path = tempfile.mkstemp(dir=folder)
        body = cls(descriptor)
        Path(path).unlink()
        body.write(start)
        return body

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def rewound(self) -> Self:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await asyncio.to_thread(os.read, self._descriptor, _CHUNK)
        except OSError as error:
            self.failure = BodyError(Outcome.CALLER_DISCONNECTED, f"the stored body cannot be read: {error.strerror}")
            raise self.failure from error
        if not chunk:
            self.complete = True
            raise StopAsyncIteration
        self.passed_on += len(chunk)
        return chunk


class CallStore:
    """Calls on disk while no orchestrator runs: saved by the one that stops, taken by the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def save(self, call: ToolCall) -> bool:
        """Store a call whose body has not been read. False where it cannot be written."""
        unfinished = self._folder / (call.run_id + _UNFINISHED)
        head = msgspec.json.encode({name: getattr(call, name) for name in _MEMBERS}) + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with unfinished.open("wb") as file:
                file.write(head)
                async for chunk in _chunks(call.body):
                    await asyncio.to_thread(file.write, chunk)
            unfinished.rename(self._folder / call.run_id)
        except (OSError, BodyError) as error:
            _log.error("the call of the waiting run %s cannot be stored: %s", call.run_id, error)
            unfinished.unlink(missing_ok=True)
            return False
        return True

    def take(self) -> dict[str, ToolCall]:
        """The stored calls by run id, which are no longer stored then."""
        calls = {}
        try:
            paths = list(self._folder.iterdir()) if self._folder.is_dir() else []
            for path in paths:
                if is_run_id(path.name) and (call := _read(path)) is not None:
                    calls[path.name] = call
                # Before any of them starts: a run must not be started again by the orchestrator after this one.
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.error("the folder of waiting runs cannot be used: %s", error.strerror)
        return calls


async def _chunks(body: bytes | StreamedBody) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    async for chunk in body:
        yield chunk


def _read(path: Path) -> ToolCall | None:
    """None for a file of another form."""
    descriptor = os.open(path, os.O_RDONLY)
    body = SpooledBody(descriptor)
    try:
        line, end, _ = os.pread(descriptor, _MAX_HEAD, 0).partition(b"\n")
        head = msgspec.json.decode(line, type=_Head)
        members = {name: getattr(head, name) for name in _MEMBERS}
        start, size = len(line) + len(end), os.fstat(descriptor).st_size
        if size - start <= _CHUNK:
            return ToolCall(body=os.pread(descriptor, _CHUNK, start), **members)
        os.lseek(descriptor, start, os.SEEK_SET)
        return ToolCall(body=body, **members)
    except ValueError as error:
        _log.error("a waiting run cannot be read: %s", error)
        return None
