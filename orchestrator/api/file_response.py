"""A file of a run as a response: from the disk, with ranges, conditions, and headers that keep it from doing harm."""

import os
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from orchestrator.tools.result_store import StoredFile

_HARMLESS: Final = ("image/", "audio/", "video/", "text/plain")
"""Media types that a browser shows in place; all others, and images with scripts in them, are downloads."""
_SCRIPTED: Final = "image/svg"
SAFE_HEADERS: Final[Mapping[str, str]] = {
    # It comes from a plugin: no page that it might be runs scripts, or anything else, as a page of the orchestrator's.
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "media-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    # It never changes, and expires: a browser may store it, and must check by its ETag that it still exists.
    "Cache-Control": "private, no-cache",
}


class StoredFileResponse(FileResponse):
    """Closes the file in the end."""

    chunk_size = 256 * 1024

    def __init__(self, stored: StoredFile, headers: Mapping[str, str] | None = None) -> None:
        about = stored.about
        shown = about.media_type.startswith(_HARMLESS) and not about.media_type.startswith(_SCRIPTED)
        self._file = stored.file
        super().__init__(
            # The very file that was found, though it may be removed meanwhile.
            f"/proc/self/fd/{stored.file.fileno()}",
            headers={
                **SAFE_HEADERS,
                # As it was given: the framework would add a charset to texts.
                "Content-Type": about.media_type,
                "ETag": f'"{about.sha256}"',
                **(headers or {}),
            },
            media_type=about.media_type,
            filename=about.name,
            stat_result=os.fstat(stored.file.fileno()),
            content_disposition_type="inline" if shown else "attachment",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.status_code == 200 and scope["method"] in ("GET", "HEAD") and self._is_known(scope):
                await self._not_modified()(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            self._file.close()

    def _is_known(self, scope: Scope) -> bool:
        """Whether the caller has it already."""
        tags = [
            tag.strip().removeprefix("W/") for tag in ",".join(Headers(scope=scope).getlist("if-none-match")).split(",")
        ]
        return "*" in tags or self.headers["etag"] in tags

    def _not_modified(self) -> Response:
        names = ("etag", "cache-control", "last-modified", "content-security-policy", "x-run-id")
        return Response(status_code=304, headers={name: self.headers[name] for name in names if name in self.headers})
