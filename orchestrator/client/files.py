"""Files in results: the orchestrator has their bytes, a result has a reference, and a program gets an object to read
or save them.

A plugin can return anything that looks like a reference. One is a file only if the orchestrator lists it in the
envelope's `files`, or, while a stream goes on, if it names a file of this very run.
"""

import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from orchestrator.client.downloads import Download, on_disk
from orchestrator.client.models import End, Envelope, FileReference, Item, StreamEvent

if TYPE_CHECKING:
    from orchestrator.client.async_client import AsyncClient
    from orchestrator.client.sync_client import Client

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TYPES: Final[Mapping[str, type]] = {"file": str, "media_type": str, "size": int, "sha256": str, "url": str}


class _File(dict[str, Any]):
    """The reference itself, so that an envelope stays JSON."""

    __slots__ = ("_client",)

    def __init__(self, reference: FileReference, client: Any) -> None:
        super().__init__(reference)
        self._client = client

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # a copy for another process has no connection

    @property
    def name(self) -> str:
        """As the plugin named it; unique within the run."""
        return str(self["file"])

    @property
    def media_type(self) -> str:
        return str(self["media_type"])

    @property
    def size(self) -> int:
        """In bytes."""
        return int(self["size"])

    @property
    def sha256(self) -> str:
        """64 hexadecimal digits."""
        return str(self["sha256"])


class ResultFile(_File):
    """A file that a run gave, as the reference `{"file", "media_type", "size", "sha256", "url"}`.

    The orchestrator has it as long as the run's result. A broken connection is taken up again where it broke, and
    what does not have the SHA-256 is `UnexpectedAnswer`.
    """

    __slots__ = ()
    _client: "Client"

    def read(self) -> bytes:
        """The content."""
        content = io.BytesIO()
        self._client._download(Download(self, content))  # noqa: SLF001 - one package
        return content.getvalue()

    def save(self, path: str | os.PathLike[str], *, replace: bool = True) -> Path:
        """Write it to `path`, or into the folder `path` under its own name; returns where it is.

        It appears there whole or not at all. Raises `FileNotSaved`, also for a file that exists unless `replace`.
        """
        with on_disk(self, path, replace=replace) as (download, target):
            self._client._download(download)  # noqa: SLF001
        return target


class AsyncResultFile(_File):
    """See `ResultFile`. It is written to disk in small blocks on the event loop."""

    __slots__ = ()
    _client: "AsyncClient"

    async def read(self) -> bytes:
        content = io.BytesIO()
        await self._client._download(Download(self, content))  # noqa: SLF001
        return content.getvalue()

    async def save(self, path: str | os.PathLike[str], *, replace: bool = True) -> Path:
        with on_disk(self, path, replace=replace) as (download, target):
            await self._client._download(download)  # noqa: SLF001
        return target


F = TypeVar("F", bound=_File)


class FilesOf(Generic[F]):
    """Puts files in the place of their references."""

    def __init__(self, make: Callable[[FileReference], F]) -> None:
        self._make = make

    def envelope(self, envelope: Envelope) -> Envelope:
        """The envelope with files in its result and in its list of them."""
        listed = envelope.get("files")
        if not isinstance(listed, list) or not listed:
            return envelope
        files = {reference["url"]: self._make(reference) for reference in listed if _is_reference(reference)}

        def known(found: dict[str, Any]) -> F | None:
            file = files.get(found["url"])
            return file if file == found else None

        return {**envelope, "result": _placed(envelope.get("result"), known), "files": _placed(listed, known)}

    def event(self, event: StreamEvent, run_id: str) -> StreamEvent:
        """The event of a stream with files in its item, or in its envelope."""
        match event:
            case Item(data):
                own = f"/v1/runs/{run_id}/files/"
                return replaced(
                    event, data=_placed(data, lambda found: self._make(found) if found["url"].startswith(own) else None)
                )
            case End(envelope):
                return End(self.envelope(envelope))
        return event


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(type(value.get(name)) is kind for name, kind in _TYPES.items())
        and value["size"] >= 0
        and _SHA256.fullmatch(value["sha256"]) is not None
        and value["url"].startswith("/v1/")  # to this orchestrator and no other host: the key is sent along
    )


def _placed(value: Any, file_of: Callable[[Any], Any]) -> Any:
    """`value`, fresh from JSON, with files in it. In place and without recursion: a plugin may nest as it likes."""
    holder = [value]
    ahead: list[tuple[Any, Any]] = [(holder, 0)]
    while ahead:
        container, key = ahead.pop()
        inner = container[key]
        if isinstance(inner, dict):
            if _is_reference(inner) and (file := file_of(inner)) is not None:
                container[key] = file
            else:
                ahead.extend((inner, name) for name in inner)
        elif isinstance(inner, list):
            ahead.extend((inner, at) for at in range(len(inner)))
    return holder[0]
