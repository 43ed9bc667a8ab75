"""The container under test, started as a plugin's is, and what a rule is."""

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
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
from orchestrator.supervisor.notify_socket import NotifySocket

NAME: Final = "conformance-check"
_POLL_SECONDS: Final = 0.05


@dataclass
class Subject:
    """The container under test, clients of its sockets, and what earlier rules found out about it."""

    engine: ContainerEngine
    container_id: str
    endpoint: UnixEndpoint
    control: httpx.AsyncClient
    tools: httpx.AsyncClient
    startup_timeout: float
    call: tuple[str, Mapping[str, Any]] | None = None
    """A tool and valid arguments."""
    notified: asyncio.Event = field(default_factory=asyncio.Event)
    status: Mapping[str, Any] = field(default_factory=dict)
    """The status object of the rule `ready`."""

    async def running(self) -> bool:
        return (await self.engine.inspect(self.container_id)).state == "running"

    async def until_it_listens(self) -> bool:
        """Wait for the control socket; False if the container ends or the start-up time is over."""
        end = time.monotonic() + self.startup_timeout
        while time.monotonic() < end:
            # Not by the notification, which is a rule of its own.
            if await asyncio.to_thread(self.endpoint.control.is_socket):
                return True
            if not await self.running():
                return False
            await asyncio.sleep(_POLL_SECONDS)
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
    """Start a container of the image, and remove it with its folder after the context.

    Raises `EngineError`, or `OSError` if the run folder cannot be created.
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
        # No deployment's id: no orchestrator adopts the container or removes it as an orphan.
        InstanceIdentity("conformance", NAME, 1, token),
        image=(await engine.image(image)).id,
        run_folder=endpoint.folder,
        max_result=int(settings.max_result),
        allow_unlimited=settings.allow_unlimited,
    )
    # Undone in reverse: the container is removed before its folder.
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
        listening = asyncio.create_task(_await_ready(notify, subject.notified))
        stack.callback(listening.cancel)
        await engine.start(container)
        yield subject


def _make_folders(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o777)
    folder.parent.chmod(0o700)  # no other user of the host gets in
    folder.chmod(0o1777)  # the container's user, whatever its id, may create sockets


def _client(socket: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://plugin", timeout=10, trust_env=False
    )


async def _await_ready(notify: NotifySocket, notified: asyncio.Event) -> None:
    await notify.ready()
    notified.set()


async def _remove(engine: ContainerEngine, container: str) -> None:
    with suppress(EngineError):
        await engine.remove(container)


class BrokenRuleError(Exception):
    """The image breaks the rule. The message says what was observed instead."""


class NotCheckedError(Exception):
    """The rule does not apply to this image, or needs information that was not given."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` raises `BrokenRuleError`, `NotCheckedError`, or an exception of httpx without an answer."""

    name: str
    demands: str
    check: Callable[[Subject], Awaitable[None]]
    starts: bool = False
    """It waits for the container's start."""


def demand(condition: object, otherwise: str) -> None:
    """Raises `BrokenRuleError` with `otherwise` unless the condition holds."""
    if not condition:
        raise BrokenRuleError(otherwise)


def object_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The JSON object in an answer that must have this status."""
    demand(response.status_code == status, f"status {response.status_code} instead of {status}: {_shown(response)}")
    kind = response.headers.get("content-type", "")
    demand(kind.startswith("application/json"), f"Content-Type is {kind!r} instead of application/json")
    try:
        content = json.loads(response.content)
    except ValueError:
        raise BrokenRuleError(f"not JSON: {_shown(response)}") from None
    demand(isinstance(content, dict), f"not a JSON object: {_shown(response)}")
    return dict(content)


def _shown(response: httpx.Response) -> str:
    return response.content[:200].decode("utf-8", "replace")
