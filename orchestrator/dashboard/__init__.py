"""The web page: GET / and its assets, static files without data, and the rules under which a browser loads them.

Must not know: plugins. The page calls the HTTP API for everything, as any caller does.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_STATIC: Final = Path(__file__).parent / "static"
_HEADERS: Final = {
    # Everything is loaded from here; pictures and videos that the user chooses or a tool returns are blobs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def page() -> FileResponse:
    return FileResponse(_STATIC / "index.html", headers=_HEADERS)


class _Assets(StaticFiles):
    """Static files under the page's rules."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


assets: Final = _Assets(directory=_STATIC)
"""To be mounted at /assets."""
