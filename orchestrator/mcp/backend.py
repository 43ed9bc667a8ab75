"""Backend: what the server needs of an orchestrator, in this process or behind its HTTP API."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orchestrator.access.principal import ANYONE, Principal
from orchestrator.errors import OrchestratorError

MAX_CONTENT: Final = 4 * 1024 * 1024
"""Bytes of a result, and of each file in one, that are held in memory for an answer. Larger files are links."""


class BackendError(OrchestratorError):
    """The orchestrator gave no answer that has more to say than this sentence."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a client. `base_url`: where the HTTP API is, for links to
    files; `closed`: its connection is, so that nobody waits for the answer.
    """

    caller: Principal = ANYONE
    base_url: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool that can be called; `about` as `GET /v1/plugins/{name}/tools` has it."""

    plugin: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A file that a run gave. `content` is None where it is larger than `MAX_CONTENT`."""

    media_type: str
    size: int
    content: bytes | None


class RunListener(Protocol):
    """Follows one run. Its methods return at once."""

    def begun(self, run_id: str) -> None: ...

    def item(self, data: Any, size: int) -> None:
        """A streaming tool yielded this; `size`: bytes of its JSON."""

    def progress(self, fraction: float | None, message: str) -> None: ...


class Backend(Protocol):
    """Methods raise `BackendError` where there is no orchestrator to answer."""

    async def tools(self, caller: Principal) -> list[ListedTool]:
        """Those that the caller may see, of all plugins that take runs, in the plugins' order."""

    async def tool(self, caller: Principal, plugin: str, tool: str) -> Mapping[str, Any] | None:
        """What is known of one; None where it is not there, or not to be seen, or its plugin has yet to say."""

    async def run(
        self, exchange: Exchange, plugin: str, tool: str, arguments: Mapping[str, Any], listener: RunListener
    ) -> dict[str, Any]:
        """The result envelope, also of a run that was refused; without the items that `listener` was given. Where it is
        cancelled, the run is abandoned as by a caller of the HTTP API who disconnects. `arguments`: files as `Upload`.
        """

    async def standing(self, run_id: str) -> str:
        """What a run that has not ended does, as a clause."""

    async def file(self, caller: Principal, run_id: str, name: str) -> StoredContent | None:
        """None where there is none, or none that the caller may see."""

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call `changed`, in the event loop, whenever the list of tools may have changed. Returns what ends that."""
