"""Servers to compare with, each in a process of its own with the orchestrator's own uvicorn settings.

python -m benchmarks.floors echo PORT          a bare FastAPI POST route that echoes the body
python -m benchmarks.floors echo-json PORT     the same with the body read and written as JSON by FastAPI
python -m benchmarks.floors bytes PORT FILE    a bare Starlette GET route that answers with the file's bytes
python -m benchmarks.floors in-process PORT    a tool called in a thread of the server, try/except around it
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from benchmarks.processes import free_port, until_it_listens, watched_process

_PLUGIN = Path(__file__).with_name("plugin")


def echo() -> ASGIApp:
    app = FastAPI()

    @app.post("/echo")
    async def answer(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    return app


def echo_json() -> ASGIApp:
    app = FastAPI()

    @app.post("/echo")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        return body

    return app


def given_bytes(file: str) -> ASGIApp:
    content = Path(file).read_bytes()

    async def answer(_: Any) -> StarletteResponse:
        return StarletteResponse(content, media_type="application/json")

    return Starlette(routes=[Route("/bytes", answer)])


def in_process() -> ASGIApp:
    """The design without containers: nothing stops a tool that hangs, eats memory or crashes."""
    sys.path.insert(0, str(_PLUGIN))
    from bench.plugin import Bench  # type: ignore[import-not-found]

    app, plugin = FastAPI(), Bench()

    @app.post("/run/{tool}")
    async def answer(tool: str, request: Request) -> Response:
        started = time.perf_counter()
        try:
            arguments = json.loads(await request.body())
            async with asyncio.timeout(60):
                result = await asyncio.to_thread(getattr(plugin, tool), **arguments)
            content = {"ok": True, "result": result, "error": None}
        except Exception as error:  # noqa: BLE001 - this design can catch no more
            content = {"ok": False, "result": None, "error": str(error)}
        content["execution_time_ms"] = (time.perf_counter() - started) * 1000
        return Response(json.dumps(content), media_type="application/json")

    return app


_APPS: dict[str, Callable[..., ASGIApp]] = {
    "echo": echo,
    "echo-json": echo_json,
    "bytes": given_bytes,
    "in-process": in_process,
}


@contextmanager
def floor(name: str, *arguments: str) -> Iterator[str]:
    """Run the server of that name; yield it as a target of the load generator."""
    port = free_port()
    with watched_process([sys.executable, "-m", "benchmarks.floors", name, str(port), *arguments]) as process:
        until_it_listens(port, process)
        yield f"tcp:127.0.0.1:{port}"


if __name__ == "__main__":
    # The settings of `orchestrator serve`.
    uvicorn.run(
        _APPS[sys.argv[1]](*sys.argv[3:]),
        port=int(sys.argv[2]),
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
    )
