"""From an instance that ended to nothing left of it: evidence first, then stop, then removal."""

import asyncio
import logging
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from orchestrator.errors import EngineError, NotFoundError
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import PostMortem
from orchestrator.sandbox.verdict import Verdict, split_exit_code
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.parts import Parts

LOG_LINES_KEPT: Final = 100
_HUNG = frozenset({ReasonCode.TIMEOUT, ReasonCode.STARTUP_TIMEOUT})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Removal:
    """What could not be done away with; empty where all is gone."""

    problem: str = ""


async def tear_down(parts: Parts, instance: Instance, verdict: Verdict) -> tuple[PostMortem, Removal]:
    """Stop the container if it runs, keep what it leaves, remove it and its folder. Never raises."""
    report = PostMortem(
        ended_at=datetime.now(UTC),
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        peak_memory_bytes=instance.peak_memory,
        traceback=verdict.traceback,
        build_output=verdict.build_output,
    )
    if instance.bring_up is not None:
        await asyncio.gather(instance.bring_up, return_exceptions=True)
    if instance.launch is not None:
        await asyncio.gather(instance.launch, return_exceptions=True)
    if verdict.code in _HUNG and instance.has_channel:
        report = replace(report, stacks=await instance.channel.diagnose())
    removal = Removal()
    if instance.container_id is not None:
        report, removal = await _remove(parts, instance.container_id, report)
    if instance.grant is not None and not removal.problem:
        parts.gpus.release(instance.grant.holder)
    await instance.close_channel()
    shutil.rmtree(instance.run_folder, ignore_errors=True)
    return report, removal


async def _remove(parts: Parts, container_id: str, report: PostMortem) -> tuple[PostMortem, Removal]:
    try:
        await parts.engine.stop(container_id, grace=parts.settings.stop_grace.total_seconds())
        report = await _with_last_words(parts, container_id, report)
        await parts.engine.remove(container_id)
    except NotFoundError:
        return report, Removal()
    except EngineError as error:
        _log.error("container %s could not be removed: %s", container_id[:12], error)
        return report, Removal(str(error))
    return report, Removal()


async def _with_last_words(parts: Parts, container_id: str, report: PostMortem) -> PostMortem:
    status = await parts.engine.inspect(container_id)
    if report.exit_code is None and report.signal is None and status.exit_code is not None:
        exit_code, signal = split_exit_code(status.exit_code)
        report = replace(report, exit_code=exit_code, signal=signal)
    return replace(report, log_tail=await parts.engine.logs(container_id, tail=LOG_LINES_KEPT))
