"""HostFeed: keeps what a front knows of one host up to date: its plugins by its event stream, its life by questions.

The stream says what changes, within a second. After a cut all is listed again, so nothing that was missed is missing.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec

from orchestrator.errors import OrchestratorError
from orchestrator.front import directory
from orchestrator.front.directory import KnownHost
from orchestrator.front.host_link import HostAnswer, HostLink, HostStream, HostUnreachableError
from orchestrator.front.host_state import STALE_SECONDS, drained, heard, resumed, troubled
from orchestrator.front.sse_events import SentEvent, SseEvents

PING_SECONDS: Final = 1.0
"""Between two questions whether the host answers."""
_LIST_SECONDS: Final = 5.0
"""For a list of all its plugins, or the beginning of its stream."""
_SILENT_SECONDS: Final = 40.0
"""Without a byte of the stream, which has a heartbeat every 15 s."""
_REFUSED: Final = frozenset({401, 403})
"""Statuses with which a host refuses the front's key."""
_MIN_PAUSE: Final = 0.2
_MAX_PAUSE: Final = 5.0

_log = logging.getLogger(__name__)


class HostRecord(Protocol):
    """Where what is known of one host stands."""

    def now(self) -> float:
        """The monotonic clock, in seconds."""

    @property
    def known(self) -> KnownHost:
        """As of now."""

    def put(self, host: KnownHost) -> None:
        """Replace it."""

    def listed(self, since: float) -> None:
        """It has all that the host had at `since`, and more."""

    def changed(self) -> None:
        """More has changed than the record shows: a full list is needed before it is believed again."""


class _FeedError(OrchestratorError):
    """The host answers, and not with what a front needs."""


class HostFeed:
    """Run `follow` for as long as the host is the front's."""

    def __init__(self, link: HostLink, record: HostRecord) -> None:
        self._link = link
        self._record = record
        self._synced = False
        """Whether the record has all that the host has listed since the stream began."""
        self._stream: HostStream | None = None
        self._silent = False
        """Whether the last question was not answered."""
        self._returned = asyncio.Event()
        """Set once a silent host answers again."""

    async def follow(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self._ask), name=f"questions to {self._link.name}")
            tasks.create_task(self._again_and_again(self._read), name=f"events of {self._link.name}")

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 - a defect must not make a host that is well stale for ever
                _log.exception("a defect in following the host %s", self._link.name)
            await asyncio.sleep(_MAX_PAUSE)

    async def list_plugins(self) -> None:
        """Ask for all its plugins now. Raises `HostUnreachableError`, `OrchestratorError`."""
        since = self._record.now()
        answer = await self._link.get("/v1/plugins", within=_LIST_SECONDS)
        if answer.status in _REFUSED and self._stream is not None:
            # It goes on by the key that it began with. What is known would be old, and nobody would know.
            self._stream.abort()
        reports = _expected(answer)
        try:
            self._record.put(directory.listed(self._record.known, reports, self._record.now()))
        except (LookupError, TypeError):
            raise _FeedError(f"The host {self._link.name} lists no plugins. Is that an orchestrator?") from None
        self._record.listed(since)

    async def ask(self) -> None:
        """Ask whether it answers, and is ready. Raises `HostUnreachableError`, `OrchestratorError`."""
        # A host with much to do may take its time; of one that is silent, the next question is more likely answered.
        within = STALE_SECONDS if self._record.known.status.answers else PING_SECONDS
        self._answered(await self._link.get("/readyz", within=within))

    # Its life

    async def _ask(self) -> None:
        while True:
            pause = asyncio.create_task(asyncio.sleep(PING_SECONDS))
            try:
                await self.ask()
            except OrchestratorError as error:
                self._failed(error)
            finally:
                await pause

    def _answered(self, answer: HostAnswer) -> None:
        if self._silent:
            self._silent = False
            self._returned.set()
        found = answer.json()
        if answer.status not in (200, 503) or not isinstance(found, dict) or "waiting_for" not in found:
            raise _FeedError(f"What answers as the host {self._link.name} is no orchestrator ({answer.status}).")
        known, now = self._record.known, self._record.now()
        stopping = found["status"] == "stopping"
        known = directory.readiness(known, tuple(found["waiting_for"]), stopping=stopping)
        mark = drained if found.get("drained", False) else resumed
        known = directory.observed(known, mark(known.status, now))
        # One whose plugins are not known yet, or not any more, has to list them first.
        self._record.put(directory.observed(known, heard(known.status, now)) if self._synced else known)

    def _failed(self, error: OrchestratorError) -> None:
        self._silent = True
        known = self._record.known
        self._record.put(directory.observed(known, troubled(known.status, str(error))))
        if not known.status.answers and self._stream is not None:
            # It may never break by itself: a cut takes no leave.
            self._stream.abort()

    # Its plugins

    async def _read(self) -> None:
        pause = _MIN_PAUSE
        while True:
            try:
                await self._follow_stream()
            except OrchestratorError as error:
                _log.info("events of the host %s: %s", self._link.name, error)
                known = self._record.known
                self._record.put(directory.observed(known, troubled(known.status, str(error))))
            if self._synced:
                pause = _MIN_PAUSE
            self._synced = False
            self._returned.clear()
            # At once where it is back: what was moved away from it meanwhile is to end within seconds.
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * (1 + random.random())):  # noqa: S311 - lest many fronts return at once
                    await self._returned.wait()
            pause = min(2 * pause, _MAX_PAUSE)

    async def _follow_stream(self) -> None:
        """Raises `OrchestratorError` in the end."""
        name = self._link.name
        try:
            async with asyncio.timeout(_LIST_SECONDS) as bound:
                target, accept = "/v1/events?include=health", (b"accept", b"text/event-stream")
                self._stream = stream = await self._link.stream(target, (accept,))
                if stream.status != 200:
                    raise _FeedError(_refusal(name, stream.status, await anext(stream.chunks(), b"")))
                # After the stream has begun, so that no change is missed between the two.
                await self.list_plugins()
                self._synced = True
                self._record.put(_heard(self._record.known, self._record.now()))
                events = SseEvents()
                async for chunk in stream.chunks():
                    bound.reschedule(asyncio.get_running_loop().time() + _SILENT_SECONDS)
                    for event in events.feed(chunk):
                        self._apply(event)
        except TimeoutError:
            raise HostUnreachableError(name, f"The host {name} sends no events any more.", sent=True) from None
        except (ValueError, LookupError, TypeError, msgspec.DecodeError) as error:
            raise _FeedError(f"What the host {name} sends are no events: {error}.") from error
        finally:
            opened, self._stream = self._stream, None
            if opened is not None:
                await opened.close()
        raise HostUnreachableError(name, f"The host {name} has ended its stream of events.", sent=True)

    def _apply(self, event: SentEvent) -> None:
        known = self._record.known
        match event.kind:
            case "health":
                self._record.put(directory.reported(known, msgspec.json.decode(event.data), self._record.now()))
            case "removed":
                self._record.put(directory.removed(known, msgspec.json.decode(event.data)["name"]))
            case "lifecycle":
                # The plugin's health follows within a second.
                self._record.changed()


def _heard(known: KnownHost, now: float) -> KnownHost:
    return directory.observed(known, heard(known.status, now))


def _expected(answer: HostAnswer) -> Any:
    """The JSON of an answer that has to be 200. Raises `OrchestratorError`."""
    if answer.status != 200:
        raise _FeedError(_refusal(answer.host, answer.status, answer.body))
    return answer.json()


def _refusal(host: str, status: int, body: bytes) -> str:
    match status:
        # Of a key that was refused often, 429 is the answer, too.
        case _ if status in _REFUSED or (status == 429 and b"TooManyWrongKeys" in body):
            return (
                f"The host {host} refuses the front's key ({status}). Give it one of the role operator for all plugins"
                ": `orchestrator keys add front --role operator` there, and key_file in hosts.yaml here."
            )
        case 429:
            return f"The host {host} has too many readers of its events (429); raise ORCHESTRATOR_EVENT_READERS there."
        case _:
            return f"The host {host} answers {status} where a front asks for its plugins. Is that an orchestrator?"
