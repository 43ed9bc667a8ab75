"""The container that is held against the protocol: started as a plugin's is, with its two sockets."""

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.containers.engine import ContainerEngine
from orchestrator.errors import EngineError
from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import InstanceIdentity, container_spec, effective_limits
from orchestrator.supervisor.notify import NotifySocket

NAME: Final = "conformance-check"
_LOOK: Final = 0.05
"""Seconds between looks at a container that comes up."""


@dataclass
class Subject:
    """The container, the ways into it, and what was learnt of it on the way."""

    engine: ContainerEngine
    container_id: str
    endpoint: UnixEndpoint
    control: httpx.AsyncClient
    tools: httpx.AsyncClient
    startup_timeout: float
    call: tuple[str, Mapping[str, Any]] | None = None
    """A tool and arguments that fit it."""
    notified: asyncio.Event = field(default_factory=asyncio.Event)
    status: Mapping[str, Any] = field(default_factory=dict)
    """The last status object that was as agreed."""

    async def running(self) -> bool:
        return (await self.engine.inspect(self.container_id)).state == "running"

    async def until_it_listens(self) -> bool:
        """Whether both the control socket is there and the container runs, within the startup time."""
        end = time.monotonic() + self.startup_timeout
        while time.monotonic() < end:
            if await asyncio.to_thread(self.endpoint.control.is_socket):
                return True
            if not await self.running():
                return False
            await asyncio.sleep(_LOOK)
        return False


@asynccontextmanager
async def started(
    engine: ContainerEngine,
    image: str,
    settings: Settings,
    *,
    call: tuple[str, Mapping[str, Any]] | None,
    environment: Mapping[str, str],
    entrypoint: str,
) -> AsyncIterator[Subject]:
    """A container of the image; gone after the context, with its folder. Raises `EngineError`, or `OSError` where the
    run folder cannot be made.
    """
    token = secrets.token_hex(4)
    parent = settings.run_dir / f"check-{token}"
    endpoint = UnixEndpoint(parent / "run")
    manifest = Manifest(
        name=NAME,
        version="0",
        description="A check.",
        entrypoint=entrypoint,
        image=image,
        env=dict(environment),
    )
    limits = effective_limits(manifest, settings)
    spec = container_spec(
        manifest,
        limits,
        InstanceIdentity("conformance", NAME, 1, token),
        image=(await engine.image(image)).id,
        run_folder=endpoint.folder,
        models_folder=parent,
        max_result=int(settings.max_result),
    )
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(_make_folders, endpoint.folder)
        stack.callback(shutil.rmtree, parent, ignore_errors=True)
        notify = stack.enter_context(NotifySocket(endpoint.notify))
        container = await engine.create(spec)
        stack.push_async_callback(_remove, engine, container)
        subject = Subject(
            engine,
            container,
            endpoint,
            await stack.enter_async_context(_client(endpoint.control)),
            await stack.enter_async_context(_client(endpoint.tools)),
            limits.startup_timeout,
            call,
        )
        listening = asyncio.create_task(_note(notify, subject.notified))
        stack.callback(listening.cancel)
        await engine.start(container)
        yield subject


def _make_folders(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o777)
    folder.parent.chmod(0o700)
    folder.chmod(0o1777)


def _client(socket: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://plugin", timeout=10, trust_env=False
    )


async def _note(notify: NotifySocket, told: asyncio.Event) -> None:
    await notify.ready()
    told.set()


async def _remove(engine: ContainerEngine, container: str) -> None:
    with suppress(EngineError):
        await engine.remove(container)
