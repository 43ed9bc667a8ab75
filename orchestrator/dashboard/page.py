"""GET / and its assets: static files, the same for everyone, with no data in them."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_STATIC: Final = Path(__file__).parent / "static"
_HEADERS: Final = {
    # Everything comes from here; pictures and videos that the user picks or a tool returns are blobs.
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
    """The page; its scripts do the rest."""
    return FileResponse(_STATIC / "index.html", headers=_HEADERS)


class _Assets(StaticFiles):
    """Static files under the page's own rules."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


assets: Final = _Assets(directory=_STATIC)
"""To be mounted at /assets."""
