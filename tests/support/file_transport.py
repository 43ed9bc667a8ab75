"""A transport that gives runs with files in their results, and the files as the orchestrator does, whole or by range.

It can cut connections, answer with other bytes, or ignore ranges.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

RUN = "0b9c5e0d1f6a4b3c8d7e9f0a1b2c3d4e"
_BLOCK = 65_536


class FileTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """`files`: name → content. `items`: of a stream. `breaks_after`: for each file request, the bytes after which its
    connection breaks. `tool`: fields of the tool, which is `draw` of the plugin `pics`.
    """

    def __init__(
        self,
        result: Any = None,
        *,
        files: dict[str, bytes] | None = None,
        items: Sequence[Any] | None = None,
        breaks_after: Sequence[int | None] = (),
        ranges: bool = True,
        tool: dict[str, Any] | None = None,
    ) -> None:
        self.tool = {"name": "draw", "output_schema": None, "streaming": items is not None, **(tool or {})}
        self.files = files or {}
        self.result = result
        self.items = items
        self.requests: list[httpx.Request] = []
        self._breaks_after = list(breaks_after)
        self._ranges = ranges

    def reference(self, name: str, media_type: str = "image/png", **other: Any) -> dict[str, Any]:
        content = self.files[name]
        about = {"file": name, "media_type": media_type, "size": len(content)}
        digest = hashlib.sha256(content).hexdigest()
        return {**about, "sha256": digest, "url": f"/v1/runs/{RUN}/files/{name}", **other}

    def envelope(self, listed: Sequence[Any] | None = None) -> dict[str, Any]:
        return {
            "ok": True,
            "result": self.result,
            "run_id": RUN,
            "plugin": "pics",
            "tool": "draw",
            "files": [self.reference(name) for name in self.files] if listed is None else list(listed),
        }

    def file_requests(self) -> list[httpx.Request]:
        return [request for request in self.requests if "/files/" in request.url.path]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if "/files/" in request.url.path:
            return self._file(request)
        if request.url.path.endswith("/tools"):
            return httpx.Response(200, json=[self.tool])
        if self.items is not None and request.url.path.endswith("/run"):
            lines = [{"event": "item", "data": item} for item in self.items]
            content = "".join(json.dumps(line) + "\n" for line in [*lines, {"event": "end", **self.envelope()}])
            return httpx.Response(
                200, headers={"Content-Type": "application/x-ndjson", "X-Run-Id": RUN}, content=content.encode()
            )
        return httpx.Response(200, headers={"X-Run-Id": RUN}, json=self.envelope())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return self.handle_request(request)

    def _file(self, request: httpx.Request) -> httpx.Response:
        content = self.files.get(request.url.path.rpartition("/")[2])
        if content is None:
            return httpx.Response(404, json={"ok": False, "error": "The run has no such file.", "error_type": "NoFile"})
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        status, headers, start = 200, {"ETag": etag, "Content-Type": "image/png"}, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if wanted and self._ranges and request.headers.get("if-range", etag) == etag:
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        after = self._breaks_after.pop(0) if self._breaks_after else None
        return httpx.Response(status, headers=headers, stream=_Blocks(content[start:], after))


class _Blocks(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, content: bytes, breaks_after: int | None) -> None:
        self._content = content
        self._breaks_after = breaks_after

    def __iter__(self) -> Iterator[bytes]:
        content = self._content if self._breaks_after is None else self._content[: self._breaks_after]
        for start in range(0, len(content), _BLOCK):
            yield content[start : start + _BLOCK]
        if self._breaks_after is not None:
            raise httpx.ReadError("the connection broke")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self:
            yield block
