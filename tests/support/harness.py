"""The whole orchestrator over containers in memory, for a test to open, call and break.

harness.add("reader", tools={"read": read})
client = await harness.open()
await client.post("/v1/plugins/reader/tools/read/run", json={})
"""

import asyncio
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import httpx
import uvicorn
import yaml
from fastapi import FastAPI
from starlette.applications import Starlette

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.api.http_protocol import BoundedProtocol
from orchestrator.app import create_app
from orchestrator.containers.memory import MemoryEngine, Program, ProgramHandle
from orchestrator.containers.spec import ContainerSpec
from orchestrator.front.front_app import create_front
from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry
from orchestrator.registry import PluginRegistry
from orchestrator.settings import Settings
from support.gpus import FakeGpus
from support.scripted_runtime import ScriptedInstance, ScriptedRuntime

TIMEOUT = 10.0
"""Seconds that a test waits for a condition that must become true; far above what that takes."""


class _Engine(MemoryEngine):
    """Its containers can outlive the orchestrator, as a real engine's do."""

    def __init__(self, *, bound: float) -> None:
        super().__init__(bound=bound)
        self.survives = False

    async def close(self) -> None:
        if not self.survives:
            await super().close()


class Harness:
    """Plugins in a folder, a memory engine whose images run what the test scripted, and the app over HTTP."""

    through_front: ClassVar[bool] = False
    """Whether the clients of all harnesses call a front over that one orchestrator (`--through-front`)."""

    def __init__(self, folder: Path, *, engine_bound: float = 0.3, **settings: Any) -> None:
        """`engine_bound`: timeout of a request to a frozen engine, in seconds."""
        self.plugins = folder / "plugins"
        self.plugins.mkdir()
        self.run_dir = Path(tempfile.mkdtemp(prefix="harness-"))  # short, whatever the test's name: it holds sockets
        self.settings = Settings(
            plugins_dirs=(self.plugins,),
            state_dir=folder / "state",
            run_dir=self.run_dir,
            stop_grace=timedelta(milliseconds=100),
            python_image="python:test",
            **settings,
        )
        self.gpus = FakeGpus()
        self.make_app: Callable[..., FastAPI] = create_app
        self.engine = _Engine(bound=engine_bound)
        self.engine.add_image("python:test", _nothing)
        self.engine.image_store.built_program = self._program
        self.runtimes: dict[str, Program] = {}
        self.app: FastAPI | None = None
        self.address = ""
        """Of the orchestrator itself, once it is open."""
        self._client: httpx.AsyncClient | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def add(
        self,
        name: str,
        *,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        program: Program | None = None,
        files: Mapping[str, bytes] | None = None,
        start: list[tuple[float, dict[str, Any]]] | None = None,
        stacks: str = "",
        ignore_sigterm: bool = False,
        silent: bool = False,
        **manifest: Any,
    ) -> ScriptedRuntime:
        """Create a plugin's folder, and what runs in its container: a runtime with these tools, or `program`.

        Its image is an existing prebuilt one, unless the manifest names another: `base` has one built.
        """
        if "image" not in manifest:
            manifest["image"] = f"harness/{name}"
            self.engine.add_image(manifest["image"], self._program)
        self.write(name, **manifest)
        for path, content in (files or {}).items():
            (self.plugins / name / path).parent.mkdir(parents=True, exist_ok=True)
            (self.plugins / name / path).write_bytes(content)
        runtime = ScriptedRuntime(tools=tools, start=start, stacks=stacks, ignore_sigterm=ignore_sigterm, silent=silent)
        self.runtimes[name] = program or runtime
        return runtime

    def write(self, name: str, **manifest: Any) -> None:
        """Write the plugin's manifest."""
        content = {"version": "1.0.0", "description": f"The plugin {name}.", "entrypoint": "package.module:Plugin"}
        (self.plugins / name).mkdir(exist_ok=True)
        (self.plugins / name / "plugin.yaml").write_text(yaml.safe_dump({**content, **manifest}))

    def write_raw(self, name: str, text: str) -> None:
        """Write a manifest of any content."""
        (self.plugins / name).mkdir(exist_ok=True)
        (self.plugins / name / "plugin.yaml").write_text(text)

    def remove(self, name: str) -> None:
        """Delete the plugin's folder."""
        shutil.rmtree(self.plugins / name)

    @property
    def client(self) -> httpx.AsyncClient:
        assert self._client is not None, "open the harness first"
        return self._client

    @property
    def registry(self) -> PluginRegistry:
        assert self.app is not None, "open the harness first"
        registry = self.app.state.context.registry
        assert isinstance(registry, PluginRegistry)
        return registry

    async def open(self, *, stop_plugins: bool = False, direct: bool = False) -> httpx.AsyncClient:
        """Start the orchestrator behind a server on a loopback port; returns a client for it. `direct`: never through a
        front.
        """
        self.app = self.make_app(
            self.settings, engine=self.engine, gpu_host=self.gpus.host(), stop_plugins=stop_plugins
        )
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        self.address = address = await serve_app(self._stack, self.app, self.app.state.context.shutdown.requested)
        if Harness.through_front and not direct:
            front = await open_front(self._stack, self.settings, [self.host_entry("here")])
            front.hosts.fresh_seconds = TIMEOUT  # a busy machine may be late, and these tests look at what was done
            address = front.address
        self._client = await self._stack.enter_async_context(
            # Plain HTTP: without `verify` it need not read all the host's certificates each time.
            httpx.AsyncClient(base_url=address, timeout=TIMEOUT * 2, trust_env=False, verify=False)
        )
        return self._client

    async def close(self) -> None:
        """Stop the orchestrator, and delete what it left."""
        try:
            await self._stack.aclose()
        finally:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    async def shut(self, *, containers_stay: bool = False) -> None:
        """Stop the orchestrator before it is opened again; `containers_stay`: for it to find its containers again."""
        self.engine.survives = containers_stay
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        self.engine.survives = False

    # Requests

    async def health(self, name: str) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/plugins/{name}/health")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until(
        self, name: str, condition: Callable[[dict[str, Any]], bool], *, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """Wait until `condition` holds of the plugin's health, and return that."""
        health: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout):
                while not condition(health := await self.health(name)):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"the condition did not hold in time; {name} is {health}") from None
        return health

    async def until_state(self, name: str, *states: str) -> dict[str, Any]:
        return await self.until(name, lambda health: health["state"] in states)

    async def settled(self, name: str) -> dict[str, Any]:
        """The plugin's health once it accepts runs or has ended."""
        return await self.until(name, lambda health: health["state"] != "LOADED")

    async def until_removed(self, name: str) -> dict[str, Any]:
        """The plugin's health once its instance has ended and its container is removed."""
        return await self.until(name, lambda health: health["post_mortem"] is not None)

    async def run(self, name: str, tool: str, **arguments: Any) -> httpx.Response:
        return await self.client.post(f"/v1/plugins/{name}/tools/{tool}/run", json=arguments)

    def instance(self, name: str) -> ScriptedInstance:
        """The plugin's running scripted runtime."""
        runtime = self.runtimes[name]
        assert isinstance(runtime, ScriptedRuntime)
        return runtime.instance

    async def containers(self, name: str) -> list[str]:
        """The ids of the plugin's containers, in any state."""
        return [c.id for c in await self.engine.list({"plugin-orchestrator.plugin": name})]

    # Internals

    async def _program(self, spec: ContainerSpec, handle: ProgramHandle) -> int:
        return await self.runtimes[spec.environment["PLUGIN_NAME"]](spec, handle)

    async def serve_again(self, stack: AsyncExitStack, *, tls: ssl.SSLContext) -> str:
        """Serve the open orchestrator by TLS too, until `stack` is closed; returns the address."""
        assert self.app is not None
        return await serve_app(stack, self.app, self.app.state.context.shutdown.requested, tls=tls)

    def host_entry(self, name: str) -> HostEntry:
        """The open orchestrator as a front's host; where it has keys, with one for the front."""
        store = KeyStore(self.settings.state_dir)
        file = None
        if store.listed():
            file = self.settings.state_dir / "front-key"
            file.write_text(store.add(f"front-{len(store.listed())}", Role.OPERATOR))
        return HostEntry(name=name, address=self.address + self.settings.root_path, key_file=file)


async def serve_app(
    stack: AsyncExitStack, app: Starlette, stopping: asyncio.Event, *, tls: ssl.SSLContext | None = None
) -> str:
    """Serve an application until `stack` is closed, which sets `stopping` first; returns its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])

    async def stop() -> None:
        # As `server.shutdown`, which always sleeps for a while.
        stopping.set()
        for accepting in server.servers:
            accepting.close()
            await accepting.wait_closed()
        while connections := server.server_state.connections:
            for connection in tuple(connections):
                connection.shutdown()
            await asyncio.sleep(0.001)

    stack.push_async_callback(stop)
    return f"http{'' if tls is None else 's'}://127.0.0.1:{listening.getsockname()[1]}"


class OpenFront(NamedTuple):
    """A front that serves, and what it knows."""

    address: str
    hosts: Hosts


async def open_front(
    stack: AsyncExitStack, settings: Settings, hosts: list[HostEntry], *, wait_for: Collection[str] | None = None
) -> OpenFront:
    """Serve a front over these hosts, and wait until it knows them, or those whose names are in `wait_for`."""
    front = create_front(settings, hosts)
    await stack.enter_async_context(front.router.lifespan_context(front))
    address = await serve_app(stack, front, front.state.shutdown.requested)
    awaited = {host.name for host in hosts} if wait_for is None else set(wait_for)
    await eventually(
        lambda: all(host.status.answers for host in front.state.hosts.directory if host.name in awaited),
        "all hosts are known",
    )
    return OpenFront(address, front.state.hosts)


async def _nothing(_: ContainerSpec, __: ProgramHandle) -> int:
    return 0


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds; `what` describes it in the failure."""
    try:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {TIMEOUT} s: {what}") from None
