"""Clearance: what is left of one plugin's instance is cleared away, and tried again where that could not be done."""

import asyncio
from dataclasses import replace
from typing import Final

from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Check
from orchestrator.sandbox.verdict import Verdict, kill_failed
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.recorder import Recorder
from orchestrator.supervisor.teardown import remove_instance, stop_instance

_GONE: Final = Check("removal", ok=True, detail="the container is gone", source="engine")


class Clearance:
    """One instance at a time; the next one begins when this is done. Never cancelled: it ends by its own bounds."""

    def __init__(self, plugin: str, deps: SupervisorDeps, recorder: Recorder) -> None:
        self._plugin = plugin
        self._deps = deps
        self._recorder = recorder
        self._task: asyncio.Task[None] | None = None
        self._left_behind: Instance | None = None
        """Its container could not be ended, or not be removed."""

    def begin(self, instance: Instance, verdict: Verdict) -> None:
        """Of an instance that has just ended."""
        work = self._clear_away(instance, verdict)
        self._task = asyncio.get_running_loop().create_task(work, name=f"clear away {self._plugin}")

    async def done(self) -> None:
        """Returns when the last instance is gone, or could not be cleared away."""
        if self._task is not None:
            await asyncio.shield(self._task)

    def retry(self) -> None:
        """Try again to do away with an instance that could not be."""
        if self._left_behind is not None and self._task is not None and self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._remove(self._left_behind))

    async def _clear_away(self, instance: Instance, verdict: Verdict) -> None:
        remains = await stop_instance(self._deps, instance, verdict)
        if remains.problem:
            verdict = kill_failed(verdict, instance.identity.container_name, remains.problem)
            self._deps.gpus.hold_back(instance.identity.instance, verdict.reason)
        if remains.problem or verdict.code is ReasonCode.STOPPED:
            self._recorder.ended(instance, verdict)
        report = replace(remains.report, evidence=dict(verdict.evidence))
        self._recorder.write(instance, post_mortem=report)
        await self._deps.history.post_mortem(self._plugin, instance.generation, report)
        if remains.problem:
            self._left_behind = instance
            self._recorder.note(instance, _not_gone(remains.problem))
        else:
            await self._remove(instance)

    async def _remove(self, instance: Instance) -> None:
        problem = await remove_instance(self._deps, instance)
        if problem:
            self._left_behind = instance
            self._recorder.note(instance, _not_gone(problem))
        elif self._left_behind is instance:
            self._left_behind = None
            self._recorder.note(instance, _GONE)


def _not_gone(problem: str) -> Check:
    return Check("removal", ok=False, detail=problem, source="engine")
