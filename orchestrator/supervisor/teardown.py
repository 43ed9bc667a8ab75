"""Teardown: from an instance that ended to nothing left of it. Evidence, stop, post-mortem on file, removal."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import msgspec

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
# With the usual grace of two seconds, a stop and a kill take less than 15.
_STOP_TIMEOUT: Final = 6.0  # seconds beyond the grace until the engine reports that a container has stopped
_KILL_TIMEOUT: Final = 6.0

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
    """Try again to remove a container that could not be. Returns whether it is removed."""
    problem = await _remove(deps, instance)
    if problem:
        record.add_checks(_not_removed(problem))
    else:
        record.add_checks(Check("removal", ok=True, detail="the container is removed", source="engine"))
    return not problem


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
        grace = deps.settings.stop_grace.total_seconds()
        stop = deps.engine.stop(instance.container_id, grace=grace)
        if await _problem(stop, within=grace + _STOP_TIMEOUT):
            problem = await _problem(deps.engine.kill(instance.container_id), within=_KILL_TIMEOUT)
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


async def _problem(command: Awaitable[None], *, within: float) -> str:
    """Why the engine did not do it; empty where it did, or the container is removed already. `within`: seconds."""
    try:
        async with asyncio.timeout(within):
            await command
    except NotFoundError:
        return ""
    except EngineError as error:
        return str(error)
    except TimeoutError:
        return f"the container engine gave no answer within {within:g} s"
    return ""


def _report(instance: Instance, verdict: Verdict) -> PostMortem:
    return PostMortem(
        ended_at=datetime.now(UTC),
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        peak_memory_bytes=instance.peak_memory,
        limits=msgspec.to_builtins(instance.limits),
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
