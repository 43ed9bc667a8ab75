"""Teardown: from an instance that ended to nothing left of it. Evidence, stop, post-mortem on file, removal."""

import asyncio
import logging
import shutil
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from orchestrator.containers.engine import ContainerEngine
from orchestrator.errors import EngineError, NotFoundError
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import Check, PostMortem
from orchestrator.sandbox.verdict import Verdict, kill_failed, split_exit_code
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.record_writer import RecordWriter

MAX_LOG_LINES: Final = 100
"""Of a post-mortem."""
_HUNG: Final = frozenset({ReasonCode.TIMEOUT, ReasonCode.STARTUP_TIMEOUT, ReasonCode.UNRESPONSIVE})
_LOOK_INTERVAL: Final = 0.5  # seconds between looks at a container while the engine does not answer
# A container takes a moment to be seen as ended: Podman refuses to kill one that is ending.
_LOOKS_AFTER_REFUSAL: Final = (0.0, 0.1, 0.2, 0.3, 0.4)  # seconds before each look

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stopped:
    """`problem`: why the container may still run; empty where it does not."""

    report: PostMortem
    problem: str = ""


async def tear_down(deps: SupervisorDeps, instance: Instance, verdict: Verdict, record: RecordWriter) -> bool:
    """Stop and remove the container of an instance that ended by `verdict`, with the evidence on file in between.
    Returns whether it is removed. Bounded in time; must not be cancelled.
    """
    stopped = await _stop(deps, instance, verdict)
    if stopped.problem:
        verdict = kill_failed(verdict, instance.identity.container_name, stopped.problem)
        deps.gpus.quarantine(instance.identity.instance, verdict.reason)
    if stopped.problem or verdict.code is ReasonCode.STOPPED:
        record.end(verdict)
    report = replace(stopped.report, evidence=dict(verdict.evidence))
    record.write(post_mortem=report)
    # Stored before the removal, which deletes the logs.
    await deps.history.post_mortem(instance.identity.plugin, instance.generation, report)
    instance.post_mortem = report
    problem = stopped.problem or await _remove(deps, instance)
    if problem:
        record.add_checks(_not_removed(problem))
    return not problem


async def retry_removal(deps: SupervisorDeps, instance: Instance, record: RecordWriter) -> bool:
    """Try again to remove a container that could not be. Returns whether it is removed: then KILL_FAILED no longer
    stands before the cause of its end.
    """
    problem = await _remove(deps, instance)
    if problem:
        record.add_checks(_not_removed(problem))
        return False
    record.add_checks(Check("removal", ok=True, detail="the container is removed", source="engine"))
    if instance.ended is not None:
        record.restore_cause(instance.ended)
    return True


async def _stop(deps: SupervisorDeps, instance: Instance, verdict: Verdict) -> _Stopped:
    """Stop the container if it runs and collect the evidence; it still exists afterwards. Never raises."""
    report = _report(instance, verdict)
    # Only after both it is certain whether there is a container.
    for task in (instance.bring_up, instance.launch):
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
    # Before the stop, after which there are no stacks. Only a hang needs them.
    if verdict.code in _HUNG and instance.has_channel:
        report = replace(report, stacks=await instance.channel.diagnose())
    if instance.container_id is None:
        return _Stopped(report)
    if not _seen_ended(verdict):
        problem = await _end_container(deps, instance, instance.container_id)
        if problem:
            return _Stopped(report, problem)
    # Without an engine the exit code and the logs are missing, and the teardown goes on.
    with suppress(EngineError):
        report = await _with_exit_and_logs(deps, instance.container_id, report)
    return _Stopped(report)


async def _remove(deps: SupervisorDeps, instance: Instance) -> str:
    """Remove container, lease and folder. Returns the problem, empty where all are removed. Never raises."""
    problem = ""
    if instance.container_id is not None:
        try:
            await deps.engine.remove(instance.container_id)
        except NotFoundError:
            pass
        except EngineError as error:
            _log.error("container %s could not be removed: %s", instance.identity.container_name, error)
            problem = str(error)
    await instance.close_channel()
    if not problem:
        # A container that still exists may compute on them.
        deps.gpus.release(instance.identity.instance)
        shutil.rmtree(instance.run_folder, ignore_errors=True)
    return problem


def _not_removed(problem: str) -> Check:
    return Check("removal", ok=False, detail=problem, source="engine")


def _seen_ended(verdict: Verdict) -> bool:
    # The engine has reported the end: one that is unreachable by now need not report it again.
    return verdict.evidence.get("container_exit_code") is not None or bool(verdict.evidence.get("container_missing"))


async def _end_container(deps: SupervisorDeps, instance: Instance, container_id: str) -> str:
    """Stop the container, or else kill it. Returns why it may still run; empty where it has ended. Takes no longer than
    the grace and `engine_timeout`.
    """
    # Witnesses are its answers, its event of the end, and a look at the container. Under load answers come late,
    # and it refuses to kill what has ended long ago.
    engine, clock = deps.engine, asyncio.get_running_loop().time
    grace, patience = deps.settings.stop_grace.total_seconds(), deps.settings.engine_timeout.total_seconds()
    began = clock()
    instance.container_died.clear()
    async with _Witnesses() as witnesses:
        witnesses.add(instance.container_died.wait())
        stop = witnesses.add(_stop_answered(engine, container_id, grace))
        if await witnesses.saw_end((stop,), until=began + grace + patience / 2):
            return ""
        kill = witnesses.add(_kill_answered(engine, container_id))
        witnesses.add(_look_until_over(engine, container_id))
        if await witnesses.saw_end((stop, kill), until=began + grace + patience):
            return ""
        if kill.done() and (error := kill.exception()) is not None:
            return str(error)
    return f"the container engine gave no answer within {grace + patience:g} s"


class _Witnesses:
    """Tasks that each return once the container has ended, and raise where they cannot know."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, witness: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(witness)
        self._tasks.add(task)
        return task

    async def saw_end(self, answers: Sequence[asyncio.Task[Any]], *, until: float) -> bool:
        """Whether one has returned; waits until `until` (the loop's clock), or until each of `answers` has raised."""
        while True:
            if any(task.done() and task.exception() is None for task in self._tasks):
                return True
            waiting = {task for task in self._tasks if not task.done()}
            seconds = until - asyncio.get_running_loop().time()
            if seconds <= 0 or all(answer.done() for answer in answers):
                return False
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def _stop_answered(engine: ContainerEngine, container_id: str, grace: float) -> None:
    with suppress(NotFoundError):
        await engine.stop(container_id, grace=grace)


async def _kill_answered(engine: ContainerEngine, container_id: str) -> None:
    with suppress(NotFoundError):
        try:
            await engine.kill(container_id)
        except NotFoundError:
            return
        except EngineError:
            # Whatever its words: only a look shows whether it runs.
            for pause in _LOOKS_AFTER_REFUSAL:
                await asyncio.sleep(pause)
                if await _is_over(engine, container_id):
                    return
            raise


async def _look_until_over(engine: ContainerEngine, container_id: str) -> None:
    while True:
        with suppress(EngineError):
            if await _is_over(engine, container_id):
                return
        await asyncio.sleep(_LOOK_INTERVAL)


async def _is_over(engine: ContainerEngine, container_id: str) -> bool:
    """Whether it has ended, or never ran. Raises `EngineError`."""
    try:
        status = await engine.inspect(container_id)
    except NotFoundError:
        return True
    return status.over or status.state == "created"


def _report(instance: Instance, verdict: Verdict) -> PostMortem:
    return PostMortem(
        ended_at=datetime.now(UTC),
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        peak_memory_bytes=instance.peak_memory,
        limits=instance.limits.report(instance.unlimited),
        container=instance.identity.container_name if instance.container_id else None,
        image_id=instance.image_id,
        gpus=instance.grant.uuids if instance.grant else (),
        traceback=verdict.traceback,
        build_output=verdict.build_output,
    )


async def _with_exit_and_logs(deps: SupervisorDeps, container_id: str, report: PostMortem) -> PostMortem:
    status = await deps.engine.inspect(container_id)
    if report.exit_code is None and report.signal is None and status.exit_code is not None:
        exit_code, signal = split_exit_code(status.exit_code)
        report = replace(report, exit_code=exit_code, signal=signal)
    return replace(report, log_tail=await deps.engine.logs(container_id, tail=MAX_LOG_LINES))
