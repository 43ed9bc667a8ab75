"""What an error means for an instance: one of ours, or of the container engine, in its start or its watch. Pure."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from orchestrator.errors import (
    BuildError,
    EngineAddressError,
    EngineError,
    EngineUnreachableError,
    NotFoundError,
    OrchestratorError,
)
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import EffectiveLimits
from orchestrator.sandbox.verdict import Verdict, startup_timeout
from orchestrator.supervisor.instance import InstanceEndedError

_DEFECT: Final = "a defect in the orchestrator; its log has the details. Report it, then"
_OF_ENGINE: Final = frozenset(
    {
        ReasonCode.CRASHED,
        ReasonCode.EXITED,
        ReasonCode.IMPORT_ERROR,
        ReasonCode.INIT_ERROR,
        ReasonCode.STARTUP_TIMEOUT,
        ReasonCode.UNRESPONSIVE,
    }
)
"""Codes of a start that an engine with a known trouble may be the cause of."""


def is_defect(error: BaseException) -> bool:
    """Whether a start is not expected to meet this error: its traceback belongs into the log."""
    return not isinstance(error, OrchestratorError | OSError)


def verdict_of_start(error: Exception, limits: EffectiveLimits) -> Verdict:
    """The verdict on an instance whose start ended with this error."""
    # Once its container starts, nothing but its own start is bounded by such a timeout.
    if isinstance(error, TimeoutError):
        return startup_timeout(limits.startup_timeout)
    return verdict_of_preparation(error)


def with_known_trouble(verdict: Verdict, trouble: str) -> Verdict:
    """The verdict on an instance that never became ready, with what its engine is known for."""
    if not trouble or verdict.code not in _OF_ENGINE:
        return verdict
    return replace(verdict, reason=f"{verdict.reason} Most likely this is the engine's doing: {trouble}.")


def verdict_of_manifest(error: str | None) -> Verdict:
    """The verdict on a plugin whose manifest cannot be used."""
    return Verdict(ReasonCode.MANIFEST_INVALID, error or "The manifest is not valid.")


def verdict_of_preparation(error: BaseException) -> Verdict:
    """The verdict on an instance that could not be prepared."""
    match error:
        # Before OrchestratorError, of which the two are kinds.
        case InstanceEndedError():
            return error.verdict
        case BuildError():
            return Verdict(ReasonCode.BUILD_FAILED, str(error), build_output=error.tail)
        case OSError():
            return Verdict(
                ReasonCode.INIT_ERROR,
                f"The host refused: {error.strerror or 'no answer in time'}. Check its disk space and permissions.",
            )
        case OrchestratorError():
            return Verdict(ReasonCode.INIT_ERROR, str(error))
    return Verdict(ReasonCode.INIT_ERROR, f"The start met {_DEFECT} restart the plugin.")


@asynccontextmanager
async def engine_verdicts(doing: str) -> AsyncIterator[None]:
    """Raises `InstanceEndedError` for an engine's error; `doing` completes "while ..." in its reason."""
    try:
        yield
    except EngineError as error:
        raise InstanceEndedError(verdict_of_engine(error, doing)) from error


def verdict_of_engine(error: EngineError, doing: str) -> Verdict:
    """The verdict on an instance for which the engine could not do something; `doing` completes "while ..."."""
    match error:
        case EngineAddressError():
            return Verdict(ReasonCode.ENGINE_UNREACHABLE, f"There is no container engine to speak to: {error}.")
        case EngineUnreachableError() if "permission denied" in str(error).lower():
            return Verdict(
                ReasonCode.ENGINE_UNREACHABLE,
                f"The orchestrator's user may not use the container engine's socket, as was seen while {doing}: {error}"
                ". Give it that right (the group docker), start the orchestrator anew, then restart the plugin; "
                "`orchestrator doctor` says more.",
            )
        case EngineUnreachableError():
            return Verdict(
                ReasonCode.ENGINE_UNREACHABLE,
                f"The container engine did not answer while {doing}: {error}. Start it (or fix DOCKER_HOST), then "
                "restart the plugin.",
            )
        case NotFoundError():
            return Verdict(ReasonCode.IMAGE_MISSING, str(error))
    return Verdict(
        ReasonCode.INIT_ERROR,
        f"The container engine refused while {doing}: {error}. Fix what it names, then restart the plugin.",
    )


def verdict_of_watch() -> Verdict:
    """The verdict on an instance whose watch ended by an error, so that nothing would notice its end."""
    return Verdict(ReasonCode.UNRESPONSIVE, f"The watch over the plugin met {_DEFECT} restart the plugin.")


def verdict_of_rollout() -> Verdict:
    """The verdict on an update whose rollout ended by an error."""
    return Verdict(ReasonCode.INIT_ERROR, f"The rollout met {_DEFECT} update again.")
