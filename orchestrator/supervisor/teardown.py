"""From an instance that ended to nothing left of it: evidence first, then stop, then removal."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from orchestrator.errors import EngineError, NotFoundError
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import PostMortem
from orchestrator.sandbox.verdict import Verdict, split_exit_code
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance

LOG_LINES_KEPT: Final = 100
_HUNG = frozenset({ReasonCode.TIMEOUT, ReasonCode.STARTUP_TIMEOUT, ReasonCode.UNRESPONSIVE})
_STOP_PATIENCE: Final = 6.0
"""Seconds beyond the grace for the engine to say that a container has stopped."""
_KILL_PATIENCE: Final = 6.0
"""Seconds for it to say so after a kill. With the usual grace of two all this takes less than 15 s."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remains:
    """What an instance left. `problem`: why its container may still run; empty where it does not."""

    report: PostMortem
    problem: str = ""


async def stop_instance(deps: SupervisorDeps, instance: Instance, verdict: Verdict) -> Remains:
    """Stop the container if it runs and gather what it leaves. The container stays; `remove_instance` comes next.
    Never raises.
    """
    report = _report(instance, verdict)
    for task in (instance.bring_up, instance.launch):
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
    if verdict.code in _HUNG and instance.has_channel:
        report = replace(report, stacks=await instance.channel.diagnose())
    if instance.container_id is None:
        return Remains(report)
    grace = deps.settings.stop_grace.total_seconds()
    if not _seen_ended(verdict) and await _told(
        deps.engine.stop(instance.container_id, grace=grace), grace + _STOP_PATIENCE
    ):
        problem = await _told(deps.engine.kill(instance.container_id), _KILL_PATIENCE)
        if problem:
            return Remains(report, problem)
    with suppress(EngineError):
        report = await _with_last_words(deps, instance.container_id, report)
    return Remains(report)


async def remove_instance(deps: SupervisorDeps, instance: Instance) -> str:
    """Do away with what is left: container, lease, folder. Returns what could not be done; empty where all is gone.
    Never raises.
    """
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
        deps.gpus.release(instance.identity.instance)
        shutil.rmtree(instance.run_folder, ignore_errors=True)
    return problem


def _seen_ended(verdict: Verdict) -> bool:
    """The engine has said that the container is gone: an engine that is gone itself by now need not say it again."""
    return verdict.evidence.get("container_exit_code") is not None or bool(verdict.evidence.get("container_missing"))


async def _told(asked: Awaitable[None], seconds: float) -> str:
    """What the engine said against it; empty where it did it, or the container is gone."""
    try:
        async with asyncio.timeout(seconds):
            await asked
    except NotFoundError:
        return ""
    except EngineError as error:
        return str(error)
    except TimeoutError:
        return f"the container engine gave no answer within {seconds:g} s"
    return ""


def _report(instance: Instance, verdict: Verdict) -> PostMortem:
    return PostMortem(
        ended_at=datetime.now(UTC),
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        peak_memory_bytes=instance.peak_memory,
        limits=dict(instance.limits.report()),
        container=instance.identity.container_name if instance.container_id else None,
        image_id=instance.image_id,
        gpus=instance.grant.uuids if instance.grant else (),
        traceback=verdict.traceback,
        build_output=verdict.build_output,
    )


async def _with_last_words(deps: SupervisorDeps, container_id: str, report: PostMortem) -> PostMortem:
    status = await deps.engine.inspect(container_id)
    if report.exit_code is None and report.signal is None and status.exit_code is not None:
        exit_code, signal = split_exit_code(status.exit_code)
        report = replace(report, exit_code=exit_code, signal=signal)
    return replace(report, log_tail=await deps.engine.logs(container_id, tail=LOG_LINES_KEPT))
