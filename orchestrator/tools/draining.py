"""What becomes of each run when the orchestrator stops."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from orchestrator.errors import ChannelError
from orchestrator.supervisor.instance import Instance
from orchestrator.tools.live_run import Abort, LiveRun

_TICK: Final = 0.05  # seconds between two looks
_MAX_ENDINGS: Final = 3.0  # seconds after the last wait, for storing results and cancelling runs
_MAX_NAMED: Final = 3  # runs named in one line of the log

_log = logging.getLogger(__name__)


def waited_for(run: LiveRun, *, containers_stay: bool) -> bool:
    """Whether a run that executes is waited for: somebody waits for its answer, or the next orchestrator would not find
    it in its container. Pure.
    """
    if run.aborted.done():
        return True  # it ends in a moment: its call or its result is being stored
    if run.record.asynchronous:
        return not (containers_stay and run.in_container)
    return not run.caller_disconnected.done()


def sentence(runs: Collection[LiveRun], until: datetime) -> str:
    """What the log says of the wait. Pure."""
    named = [f"run {run.run_id[:8]} of {run.record.plugin}" for run in runs][:_MAX_NAMED]
    if len(runs) > _MAX_NAMED:
        named.append(f"{len(runs) - _MAX_NAMED} more")
    return (
        f"stopping: waiting for {', '.join(named)}, at most until {until:%H:%M:%S}; SIGTERM again ends at once. New "
        "runs are refused, health is answered"
    )


class Drain:
    """Ends the runs in `live`, a mapping that loses each as it ends and gains none any more.

    ==========================  =======================================================================
    a run that                  is
    ==========================  =======================================================================
    waits, synchronous          refused at once: nothing of it has begun, and its caller may try again
    waits, asynchronous         stored, and started by the next orchestrator
    executes, synchronous       waited for; at the deadline its caller gets 503, and it is cancelled
    executes, asynchronous      handed over in its container; waited for where that does not stay
    ==========================  =======================================================================
    """

    def __init__(self, live: Mapping[str, LiveRun], *, containers_stay: bool) -> None:
        self._live = live
        self._containers_stay = containers_stay
        self._said: frozenset[str] = frozenset()

    async def run(self, seconds: float, at_once: asyncio.Event) -> None:
        """Returns when no run is left. `seconds`: the longest wait; `at_once` ends it."""
        clock = asyncio.get_running_loop().time
        end, until = clock() + seconds, datetime.now().astimezone() + timedelta(seconds=seconds)
        for run in self._runs():
            if run.instance is None:
                run.abort(Abort.HANDED_OVER if run.record.asynchronous else Abort.STOPPING)
        while not at_once.is_set() and clock() < end:
            await self._ask_containers()
            waited = self._waited_for()
            if not waited:
                break
            self._say(waited, until)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await at_once.wait()
        await self._end_all()

    def _runs(self) -> list[LiveRun]:
        return list(self._live.values())

    def _waited_for(self) -> list[LiveRun]:
        return [run for run in self._runs() if waited_for(run, containers_stay=self._containers_stay)]

    async def _ask_containers(self) -> None:
        """Learn which asynchronous runs their containers have."""
        if not self._containers_stay:
            return
        unknown: defaultdict[Instance, dict[str, LiveRun]] = defaultdict(dict)
        for run in self._runs():
            if run.record.asynchronous and not run.in_container and run.instance is not None:
                unknown[run.instance][run.run_id] = run
        await asyncio.gather(*(_ask(instance, runs) for instance, runs in unknown.items()))

    def _say(self, waited: Iterable[LiveRun], until: datetime) -> None:
        waited = [run for run in waited if not run.aborted.done()]
        ids = frozenset(run.run_id for run in waited)
        if not ids <= self._said:
            _log.info("%s", sentence(waited, until))
            self._said = ids

    async def _end_all(self) -> None:
        """End what still executes: what its container has is handed over, everything else is cut short."""
        left = self._runs()
        for run in left:
            over = self._containers_stay and run.record.asynchronous
            run.abort(Abort.HANDED_OVER if over else Abort.STOPPING)
        _say_what_is_left(left)
        with suppress(TimeoutError):
            async with asyncio.timeout(_MAX_ENDINGS):
                await asyncio.gather(*(run.ended.wait() for run in left), *_cancellations(left))


async def _ask(instance: Instance, runs: Mapping[str, LiveRun]) -> None:
    # What does not answer is asked again, or waited for to the end.
    with suppress(ChannelError, RuntimeError):
        for listed in (await instance.channel.status()).runs:
            if (run := runs.get(listed.run_id)) is not None:
                run.in_container = True


def _cancellations(runs: Iterable[LiveRun]) -> list[asyncio.Future[None]]:
    """Requests to the containers to end what nobody will have the result of."""
    return [
        asyncio.ensure_future(_cancel(run.instance, run.run_id))
        for run in runs
        if run.abort_reason is Abort.STOPPING and run.instance is not None and run.ends_with_caller
    ]


async def _cancel(instance: Instance, run_id: str) -> None:
    with suppress(ChannelError, RuntimeError):
        await instance.channel.cancel(run_id)


def _say_what_is_left(runs: Iterable[LiveRun]) -> None:
    count = Counter((run.abort_reason, run.instance is not None) for run in runs)
    if going_on := count[Abort.HANDED_OVER, True]:
        _log.info("asynchronous runs that go on in their containers, for the next start: %d", going_on)
    if cut_short := count[Abort.STOPPING, True]:
        _log.warning("runs cut short, whose results are lost: %d", cut_short)
