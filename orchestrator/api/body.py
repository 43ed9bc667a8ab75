"""The body of a request: whole in memory where it is short, else as it comes, or in a file for a run that its caller
does not wait for.
"""

import asyncio
import os
import tempfile
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Self

from fastapi import Request
from starlette.requests import ClientDisconnect

from orchestrator.formatting import format_size
from orchestrator.sandbox.call import BodyError, Outcome
from orchestrator.sandbox.upload_pace import UploadPace

SHORT: Final = 256 * 1024
"""Bytes up to which a body is read whole before the call, which is quicker than streaming it."""
_READ: Final = 256 * 1024
_HUNG_UP: Final = "the caller hung up in the middle of its body"


async def whole(request: Request, pace: UploadPace) -> bytes:
    """A body of at most `SHORT` bytes. Raises `BodyError` where it is not sent to its end, or not at that pace."""
    try:
        async with asyncio.timeout(pace.idle):
            message = await request.receive()
    except TimeoutError:
        raise pace.stalled() from None
    if message["type"] != "http.request":
        raise BodyError(Outcome.CALLER_GONE, _HUNG_UP)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    try:
        return b"".join([body, *[part async for part in pace.kept(limited(request, SHORT))]])
    except ClientDisconnect:
        raise BodyError(Outcome.CALLER_GONE, _HUNG_UP) from None


async def limited(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes; over `limit` bytes raises `BodyError`."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyError(Outcome.TOO_LARGE, too_large(limit))
        if chunk:
            yield chunk


async def stored(request: Request, *, limit: int, pace: UploadPace, folder: Path) -> "bytes | StoredBody":
    """The whole body, to be read when its run begins: in memory where it is short, else in a file in `folder`. Raises
    `BodyError`.
    """
    start = bytearray()
    file: StoredBody | None = None
    try:
        async for chunk in pace.kept(limited(request, limit)):
            if file is None and len(start) + len(chunk) <= SHORT:
                start += chunk
            else:
                if file is None:
                    file = await asyncio.to_thread(StoredBody, folder, bytes(start))
                await asyncio.to_thread(file.write, chunk)
    except ClientDisconnect:
        raise BodyError(Outcome.CALLER_GONE, _HUNG_UP) from None
    except OSError as error:
        raise BodyError(Outcome.TOO_LARGE, f"the body cannot be stored: {error.strerror}") from error
    return bytes(start) if file is None else file.rewound()


class StoredBody:
    """In a file without a name, that is gone with this object. To be read once."""

    def __init__(self, folder: Path, start: bytes) -> None:
        """Raises `OSError`, as `write` does."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor, path = tempfile.mkstemp(dir=folder)
        weakref.finalize(self, os.close, self._descriptor)
        Path(path).unlink()
        self.write(start)

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
        data = await asyncio.to_thread(os.read, self._descriptor, _READ)
        if not data:
            raise StopAsyncIteration
        return data


def too_large(limit: int) -> str:
    return f"The body is over the plugin's limit of {format_size(limit)} (`limits.scratch` in its manifest)."
