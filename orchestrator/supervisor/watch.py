"""Watch: observations of one instance, from its control socket and the engine. It changes nothing; its driver folds
them.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Final

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import ChannelError, EngineError, EngineUnreachableError, NotFoundError
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Check
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.verdict import Evidence, Verdict, judge
from orchestrator.supervisor.instance import Instance

Observation = RuntimeStatus | Check | Verdict
"""What the runtime reports, a witness's finding, or that the instance has ended and why."""

# The engine notes an exit some 40 ms after the connection broke.
_EXIT_INSPECTIONS: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # seconds between inspections
# Runs wait for the verdict meanwhile.
_LOOK_PATIENCE: Final = 3.0  # seconds for a look at a container whose end an event has reported
_EVENT_TIMEOUT: Final = 1.0  # seconds for the engine's event of an end, where it cannot be asked
_MAX_STREAM_BREAKS: Final = 3  # in a row, from a container that runs
# A runtime that reports every three seconds, as the protocol requires, is never probed: a hundred idle plugins cost a
# hundred lines read and no request. All in all silence is found within ten seconds, and no busy plugin is taken for a
# dead one.
_SILENCE: Final = 3.5  # seconds without a status until the first probe
_PROBE_TIMEOUT: Final = 1.5
_PROBE_PAUSE: Final = 0.3  # seconds between a probe that failed and the next
_MAX_PROBE_FAILURES: Final = 3  # in a row

_log = logging.getLogger(__name__)


class Watch:
    """Of one instance, until it has ended. Who iterates folds each observation before it takes the next."""

    def __init__(self, engine: ContainerEngine, instance: Instance) -> None:
        self._engine = engine
        self._instance = instance
        self._silent = asyncio.Event()
        self._silence_timer = asyncio.get_running_loop().call_later(_SILENCE, self._silent.set)

    async def follow_status(self) -> AsyncGenerator[Observation]:
        """Every status that the runtime reports by itself, and the end that a broken stream means."""
        breaks = 0
        while self._instance.ended is None:
            try:
                async for status in self._instance.channel.watch():
                    breaks = 0
                    self._restart_silence_timer()
                    yield status
            except ChannelError as error:
                _log.debug("%s: %s", self._instance.identity.plugin, error)
            breaks += 1
            verdict = await self.find_end(give_up=breaks >= _MAX_STREAM_BREAKS)
            if verdict is not None:
                yield verdict

    async def poll_liveness(self) -> AsyncGenerator[Observation]:
        """Probe the control socket while it is silent: fresh figures, or the end of one that does not answer."""
        failures = 0
        try:
            while True:
                await self._silent.wait()
                if self._instance.ended is not None:
                    return
                try:
                    status = await self._instance.channel.status(timeout=_PROBE_TIMEOUT)
                except ChannelError as error:
                    failures += 1
                    yield Check("control socket", ok=False, detail=f"{error} ({failures} times)", source="host")
                    if failures >= _MAX_PROBE_FAILURES and self._instance.ended is None:
                        yield await self._why_silent()
                    await asyncio.sleep(_PROBE_PAUSE)
                else:
                    self._restart_silence_timer()
                    yield status
                if failures and not self._silent.is_set() and self._instance.ended is None:
                    failures = 0
                    yield Check("control socket", ok=True, detail="answers again", source="host")
        finally:
            self._silence_timer.cancel()

    async def find_end(self, *, give_up: bool = False) -> Verdict | None:
        """Inspect a container that may have ended: why it did, or None while it runs. With `give_up` one that runs gets
        a verdict too.
        """
        for pause in _EXIT_INSPECTIONS:
            await asyncio.sleep(pause)
            if self._instance.ended is not None:
                return None
            try:
                status = await self._inspect()
            except NotFoundError:
                return judge(Evidence(container_missing=True))
            except EngineError:
                # An engine under load: its event of the end has the exit code.
                reported = await self._reported_exit_code(wait=_EVENT_TIMEOUT if give_up else 0)
                if reported and not await self._answers():
                    return judge(_reported_evidence(self._instance))
                # Unknown is not ended: the stream is opened again first.
                return judge(Evidence(engine_reachable=False)) if give_up else None
            if status.over:
                return judge(evidence_of(status, self._instance))
        return self._judge_silence() if give_up else None

    async def _inspect(self) -> ContainerStatus:
        """As the engine's. Raises `EngineUnreachableError` early where its event has reported the end."""
        look = asyncio.ensure_future(self._engine.inspect(self._instance.container_id or ""))
        try:
            await asyncio.wait((look,), timeout=_LOOK_PATIENCE)
            if not look.done() and self._instance.exit_code is not None:
                raise EngineUnreachableError(f"the container engine gave no answer within {_LOOK_PATIENCE:g} s")
            return await look
        finally:
            look.cancel()

    async def _reported_exit_code(self, *, wait: float) -> bool:
        """Whether the engine's event of the end has come, within `wait` seconds."""
        if self._instance.exit_code is None and wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._instance.container_died.wait()
        return self._instance.exit_code is not None

    async def _answers(self) -> bool:
        """Whether the plugin answers, which no ended container does: then the engine's event is not to be believed."""
        if not self._instance.has_channel:
            return False
        with contextlib.suppress(ChannelError):
            await self._instance.channel.status(timeout=_PROBE_TIMEOUT)
            return True
        return False

    def _restart_silence_timer(self) -> None:
        # A status puts the timer off without waking the task that waits for it.
        self._silence_timer.cancel()
        self._silent.clear()
        self._silence_timer = asyncio.get_running_loop().call_later(_SILENCE, self._silent.set)

    async def _why_silent(self) -> Verdict:
        # A paused container holds its connections open, and looks as a hung one does.
        return await find_pause(self._engine, self._instance) or self._judge_silence()

    def _judge_silence(self) -> Verdict:
        endpoint = self._instance.channel.endpoint if self._instance.has_channel else None
        return judge(Evidence(sockets_lost=isinstance(endpoint, UnixEndpoint) and not endpoint.folder.exists()))


async def find_pause(engine: ContainerEngine, instance: Instance) -> Verdict | None:
    """The verdict on a container that is paused; None where it is not, or the engine does not say."""
    with contextlib.suppress(EngineError):
        if (await engine.inspect(instance.container_id or "")).state == "paused":
            return Verdict(
                ReasonCode.UNRESPONSIVE,
                "The container was paused from outside. Unpause it, then restart.",
                evidence={"container_state": "paused"},
            )
    return None


def _reported_evidence(instance: Instance) -> Evidence:
    """The evidence that the engine's events have of a container that cannot be looked at."""
    return Evidence(
        container_exit_code=instance.exit_code,
        container_oom_killed=instance.oom_reported,
        memory_limit=instance.memory_limit,
    )


def evidence_of(status: ContainerStatus, instance: Instance) -> Evidence:
    """The engine's evidence on a container that ended."""
    return Evidence(
        container_exit_code=status.exit_code,
        container_oom_killed=bool(status.oom_killed),
        memory_limit=instance.memory_limit,
    )
