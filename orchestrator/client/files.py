"""Files in results: the orchestrator has their bytes, a result has a reference, and a program gets an object to read
or save them.

A plugin can return anything that looks like a reference. One is a file only if the orchestrator lists it in the
envelope's `files`, or, while a stream goes on, if it names a file of this very run.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from orchestrator.client.downloads import Download, on_disk
from orchestrator.client.models import End, Envelope, FileReference, Item, StreamEvent

if TYPE_CHECKING:
    from orchestrator.client.async_client import AsyncClient
    from orchestrator.client.sync_client import Client

Where = tuple[str | int, ...]
"""Keys of objects and positions in lists, from 0, that lead to a value."""
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
    """Replaces references by files."""

    def __init__(self, make: Callable[[FileReference], F]) -> None:
        self._make = make

    def envelope(self, envelope: Envelope) -> Envelope:
        """The envelope with files in its result and in its list of them."""
        listed = envelope.get("files")
        if not isinstance(listed, list) or not listed:
            return envelope
        files = {reference["url"]: self._make(reference) for reference in listed if _is_reference(reference)}

        def listed_one(value: Any, _: Where) -> Any:
            file = files.get(value["url"]) if _is_reference(value) else None
            return file if file == value else value

        result, listed = replaced_within([envelope.get("result"), listed], listed_one)
        return {**envelope, "result": result, "files": listed}

    def event(self, event: StreamEvent, run_id: str) -> StreamEvent:
        """The event of a stream with files in its item, or in its envelope."""
        match event:
            case Item(data):
                own = f"/v1/runs/{run_id}/files/"

                def own_one(value: Any, _: Where) -> Any:
                    return self._make(value) if _is_reference(value) and value["url"].startswith(own) else value

                return Item(replaced_within(data, own_one))
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


def replaced_within(value: Any, replacement: Callable[[Any, Where], Any]) -> Any:
    """`value`, fresh from JSON, with what `replacement` gives for an object, list or text in it, and for its path.

    It descends into what is returned unchanged. In place, and without recursion: a plugin may nest without bound.
    """
    holder = [value]
    ahead: list[tuple[Any, Any, Where]] = [(holder, 0, ())]
    while ahead:
        container, key, path = ahead.pop()
        inner = container[key]
        new = replacement(inner, path)
        if new is not inner:
            container[key] = new
            continue
        members: Iterable[tuple[Any, Any]] = ()
        if isinstance(inner, dict):
            members = inner.items()
        elif isinstance(inner, list):
            members = enumerate(inner)
        found = [(inner, name, (*path, name)) for name, one in members if isinstance(one, dict | list | str)]
        ahead.extend(reversed(found))
    return holder[0]
