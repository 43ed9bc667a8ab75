"""Watch: the witnesses of one instance (control socket, engine) and what they mean. It tells; it changes nothing."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import ChannelError, EngineError, NotFoundError
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Check
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.verdict import Evidence, Verdict, judge
from orchestrator.supervisor.instance import Instance

_EXIT_LOOKS: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between looks at a container whose connection broke: the engine notes an exit some 40 ms after it."""
_STREAM_MISSES: Final = 3
"""Times in a row that the control stream breaks, from a container that runs, before it is given up."""
_PULSE: Final = 3.5
"""Seconds of silence after which the control socket is asked. A runtime that says every three that all is well, as the
protocol asks of it, never is: a hundred plugins at rest cost a hundred lines read, and no question.
"""
_PULSE_DOUBT: Final = 0.3
"""Seconds after a question that was not answered until the next."""
_PULSE_MISSES: Final = 3
_PULSE_ANSWER: Final = 1.5
"""Seconds for an answer. All in all silence is found within ten seconds, and no busy plugin is taken for a dead one."""

_log = logging.getLogger(__name__)


class Watch:
    """Of one instance, until it has ended. `take` is given each status, `note` what a witness says, `end` the
    verdict.
    """

    def __init__(
        self,
        engine: ContainerEngine,
        instance: Instance,
        *,
        take: Callable[[RuntimeStatus], None],
        note: Callable[[Check], None],
        end: Callable[[Verdict], None],
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._take = take
        self._note = note
        self._end = end
        self._silent = asyncio.Event()
        self._alarm = asyncio.get_running_loop().call_later(_PULSE, self._silent.set)

    async def follow(self) -> None:
        """Take in what the container's supervisor says, as it says it."""
        misses = 0
        while self._instance.ended is None:
            try:
                async for status in self._instance.channel.watch():
                    misses = 0
                    self._hear(status)
            except ChannelError as error:
                _log.debug("%s: %s", self._instance.identity.plugin, error)
            misses += 1
            await self.look_after(last=misses >= _STREAM_MISSES)

    async def feel_pulse(self) -> None:
        """Ask the control socket once it has said nothing for a while: for fresh figures, and to find one that has
        fallen silent.
        """
        misses = 0
        try:
            while True:
                await self._silent.wait()
                if self._instance.ended is not None:
                    return
                try:
                    self._hear(await self._instance.channel.status(timeout=_PULSE_ANSWER))
                except ChannelError as error:
                    misses += 1
                    self._note(Check("control socket", ok=False, detail=f"{error} ({misses} times)", source="host"))
                    if misses >= _PULSE_MISSES and self._instance.ended is None:
                        self._end(await self._why_silent())
                    await asyncio.sleep(_PULSE_DOUBT)
                if misses and not self._silent.is_set() and self._instance.ended is None:
                    misses = 0
                    self._note(Check("control socket", ok=True, detail="answers again", source="host"))
        finally:
            self._alarm.cancel()

    def _hear(self, status: RuntimeStatus) -> None:
        self._listen()
        self._take(status)

    def _listen(self) -> None:
        """Silence begins anew. Who speaks puts the alarm off and wakes nobody."""
        self._alarm.cancel()
        self._silent.clear()
        self._alarm = asyncio.get_running_loop().call_later(_PULSE, self._silent.set)

    async def look_after(self, *, last: bool = False) -> None:
        """A connection broke, or the engine says that the container ended: find out whether, and why. `last`: if it
        runs, give it up.
        """
        for pause in _EXIT_LOOKS:
            await asyncio.sleep(pause)
            if self._instance.ended is not None:
                return None
            try:
                status = await self._engine.inspect(self._instance.container_id or "")
            except NotFoundError:
                return self._end(judge(Evidence(container_missing=True)))
            except EngineError:
                if last:
                    self._end(judge(Evidence(engine_reachable=False)))
                return None
            if status.over:
                return self._end(judge(evidence_of(status, self._instance)))
        if last:
            self._end(judge(Evidence()))
        return None

    async def _why_silent(self) -> Verdict:
        with contextlib.suppress(EngineError):
            if (await self._engine.inspect(self._instance.container_id or "")).state == "paused":
                return Verdict(
                    ReasonCode.UNRESPONSIVE,
                    "The container was paused from outside. Unpause it, then restart.",
                    evidence={"container_state": "paused"},
                )
        return judge(Evidence())


def evidence_of(status: ContainerStatus, instance: Instance) -> Evidence:
    """The engine's word on a container that ended."""
    return Evidence(
        container_exit_code=status.exit_code,
        container_oom_killed=bool(status.oom_killed),
        memory_limit=instance.limits.memory,
    )
