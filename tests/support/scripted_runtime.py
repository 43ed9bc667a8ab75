"""A plugin's runtime as a program of the memory engine: it speaks the runtime protocol, and does what a test scripted.

runtime = ScriptedRuntime(tools={"double": lambda number: number * 2})
engine.add_image("plugin-orchestrator/plugin-x:1", runtime)
...
runtime.instance.set_status(phase="exited", worker={"pid": 7, "exit_code": 3, "signal": None})
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from orchestrator.containers.memory import ProgramHandle
from orchestrator.containers.spec import ContainerSpec
from support.scripted_tools import answer_call, describe_tool

READY: dict[str, Any] = {
    "protocol": 1,
    "phase": "ready",
    "reason_code": None,
    "reason": None,
    "traceback": None,
    "checks": [],
    "tools": [],
    "worker": {"pid": 7, "exit_code": None, "signal": None},
    "memory": {"oom_kills": 0, "usage_bytes": 1 << 20, "peak_bytes": 2 << 20, "limit_bytes": 1 << 30},
    "cpu_seconds": 0.1,
    "uptime_seconds": 0.1,
    "ready_seconds": 0.1,
    "runs_begun": 0,
    "runs": [],
}
"""The status of a runtime whose tools can be called, without its tools."""


class ScriptedRuntime:
    """The program of an image. Every container of it becomes one `ScriptedInstance`."""

    def __init__(
        self,
        *,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        start: list[tuple[float, dict[str, Any]]] | None = None,
        stacks: str = "",
        ignore_sigterm: bool = False,
        exit_code: int = 0,
        silent: bool = False,
    ) -> None:
        """`start`: the way to readiness, as (seconds to wait, changes of the status); by default it is ready at once.
        `silent`: no socket is ever made. `exit_code`: how it exits on SIGTERM.
        """
        self.tools = dict(tools or {})
        self.start = [(0.0, {"phase": "ready"})] if start is None else start
        self.stacks = stacks
        self.ignore_sigterm = ignore_sigterm
        self.exit_code = exit_code
        self.silent = silent
        self.instances: list[ScriptedInstance] = []
        self.before_ready: Callable[[], Awaitable[Any]] | None = None
        """Each awaits it before its way to readiness begins."""

    @property
    def instance(self) -> "ScriptedInstance":
        """The one started last."""
        return self.instances[-1]

    async def __call__(self, spec: ContainerSpec, handle: ProgramHandle) -> int:
        instance = ScriptedInstance(self, spec, handle)
        self.instances.append(instance)
        return await instance.run()


class ScriptedInstance:
    """One container's runtime, for a test to steer while it runs."""

    def __init__(self, runtime: ScriptedRuntime, spec: ContainerSpec, handle: ProgramHandle) -> None:
        self.runtime = runtime
        self.spec = spec
        self.handle = handle
        self.run_ids: list[str] = []
        """The `X-Run-Id` of every tool call so far."""
        self.traces: list[dict[str, str]] = []
        """The trace context of every tool call so far."""
        self.questions = 0
        """How often the status was requested on the control socket."""
        self.answers: dict[str, asyncio.Future[Any]] = {}
        """Results of runs that an earlier orchestrator began, by their ids; they execute until they are set."""
        self.deaf = False
        """Requests for the status are not answered."""
        self.status: dict[str, Any] = {
            **READY,
            "phase": "starting",
            "tools": [],
        }
        self._changed = asyncio.Condition()
        self._left: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._control: _Server | None = None
        self._tools: _Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def folder(self) -> Path:
        """The socket folder as this host sees it."""
        target = self.spec.environment.get("PLUGIN_RUN_DIR", "/run/plugin")
        return next(mount.source for mount in self.spec.mounts if mount.target == target)

    def set_status(self, **changes: Any) -> None:
        """Change the status, and send it to all watchers."""
        self.status = {**self.status, **changes}
        self._spawn(self._notify_watchers())

    async def worker_exits(
        self, *, exit_code: int | None = None, signal: int | None = None, oom_kills: int = 0
    ) -> None:
        """The worker exits in the middle of its calls, and the supervisor reports it."""
        if self._tools is not None:
            await self._tools.cut()
            self._tools = None
        self.set_status(
            phase="exited",
            worker={"pid": 7, "exit_code": exit_code, "signal": signal},
            memory={**self.status["memory"], "oom_kills": oom_kills},
        )

    def leave(self, exit_code: int) -> None:
        """The whole container ends by itself."""
        if not self._left.done():
            self._left.set_result(exit_code)

    async def run(self) -> int:
        try:
            if not self.runtime.silent:
                await _to_its_end(self._serve())
                self._spawn(self._become_ready())
            if not self.runtime.ignore_sigterm:
                self._spawn(self._leave_on_sigterm())
            return await self._left
        finally:
            for task in self._tasks:
                task.cancel()
            for server in (self._control, self._tools):
                if server is not None:
                    await server.cut()

    async def _serve(self) -> None:
        control = web.Application()
        control.router.add_get("/status", self._get_status)
        control.router.add_get("/watch", self._get_watch)
        control.router.add_post("/diagnose", self._post_diagnose)
        tools = web.Application(client_max_size=1 << 30)
        tools.router.add_post("/tools/{name}", self._post_tool)
        tools.router.add_get("/runs/{run_id}", self._get_answer)
        self._tools = await _Server(tools).listen(self.folder / "tools.sock")
        self._control = await _Server(control).listen(self.folder / "control.sock")
        if "NOTIFY_SOCKET" in self.spec.environment:
            notify = self.folder / Path(self.spec.environment["NOTIFY_SOCKET"]).name
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
                sender.sendto(b"READY=1", str(notify))

    async def _become_ready(self) -> None:
        if self.runtime.before_ready is not None:
            await self.runtime.before_ready()
        for seconds, changes in self.runtime.start:
            await asyncio.sleep(seconds)
            if changes.get("phase") == "ready":
                described = [describe_tool(name, function) for name, function in self.runtime.tools.items()]
                changes = {"tools": described, **changes}  # noqa: PLW2901
            self.set_status(**changes)

    async def _leave_on_sigterm(self) -> None:
        await self.handle.terminated()
        self.leave(self.runtime.exit_code)

    async def _get_status(self, _: web.Request) -> web.Response:
        self.questions += 1
        if self.deaf:
            await asyncio.sleep(3600)
        return web.json_response(self.status)

    async def _get_watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        sent = None
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.status is not sent)  # noqa: B023
            sent = self.status
            await response.write(web.json_response(sent).body + b"\n")  # type: ignore[operator]

    async def _post_diagnose(self, _: web.Request) -> web.Response:
        return web.json_response({"stacks": self.runtime.stacks})

    async def _post_tool(self, request: web.Request) -> web.StreamResponse:
        self.run_ids.append(request.headers.get("X-Run-Id", ""))
        self.traces.append(
            {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}
        )
        self.status = {**self.status, "runs_begun": len(self.run_ids)}
        return await answer_call(request, self.runtime.tools)

    async def _get_answer(self, request: web.Request) -> web.StreamResponse:
        answer = self.answers.get(request.match_info["run_id"])
        if answer is None:
            return web.json_response({}, status=404)
        return web.json_response({"ok": True, "result": await answer, "execution_time_ms": 1.0})

    async def _notify_watchers(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also where this is cancelled meanwhile: sockets that nobody knows of would go on listening."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


class _Server:
    """An application on a socket, which can end as a process does: with all its connections, whatever they are at."""

    def __init__(self, app: web.Application) -> None:
        # Connections are cut at once (0 would stand for no limit).
        self._runner = web.AppRunner(app, shutdown_timeout=0.001, handler_cancellation=True, access_log=None)
        self._socket = socket.socket(socket.AF_UNIX)
        self._connecting: set[asyncio.Task[Any]] = set()

    async def listen(self, path: Path) -> Self:
        await self._runner.setup()
        path.unlink(missing_ok=True)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self._socket.listen(128)
        path.chmod(0o666)
        asyncio.get_running_loop().add_reader(self._socket, self._accept)
        return self

    # A server of asyncio leaves a connection open, and unanswered, that it had only just accepted when it was closed:
    # that would look like a runtime that hangs.
    def _accept(self) -> None:
        try:
            peer, _ = self._socket.accept()
        except BlockingIOError:
            return
        connected = asyncio.get_running_loop().connect_accepted_socket(self._factory, peer)
        task = asyncio.ensure_future(connected)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _factory(self) -> asyncio.BaseProtocol:
        assert self._runner.server is not None
        return self._runner.server()

    async def cut(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            connection.force_close()
        await self._runner.cleanup()
