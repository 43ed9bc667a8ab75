"""Why an instance is FAILED or UNAVAILABLE, as stable codes for programs."""

from enum import StrEnum

from orchestrator.lifecycle.states import PluginLifecycleState


class ReasonCode(StrEnum):
    """Each belongs to exactly one final state, see `final_state`."""

    # Something is missing: UNAVAILABLE
    GPU_NOT_FOUND = "GPU_NOT_FOUND"
    GPU_DRIVER_ERROR = "GPU_DRIVER_ERROR"
    GPU_RUNTIME_MISSING = "GPU_RUNTIME_MISSING"
    CUDA_UNAVAILABLE = "CUDA_UNAVAILABLE"
    GPU_BUSY = "GPU_BUSY"
    GPU_LOST = "GPU_LOST"
    PACKAGE_MISSING = "PACKAGE_MISSING"
    MODEL_MISSING = "MODEL_MISSING"
    MODEL_CORRUPT = "MODEL_CORRUPT"
    IMAGE_MISSING = "IMAGE_MISSING"
    ENGINE_UNREACHABLE = "ENGINE_UNREACHABLE"
    STOPPED = "STOPPED"

    # Something broke: FAILED
    MANIFEST_INVALID = "MANIFEST_INVALID"
    BUILD_FAILED = "BUILD_FAILED"
    IMPORT_ERROR = "IMPORT_ERROR"
    INIT_ERROR = "INIT_ERROR"
    VALIDATE_MISSING = "VALIDATE_MISSING"
    VALIDATE_ERROR = "VALIDATE_ERROR"
    STARTUP_TIMEOUT = "STARTUP_TIMEOUT"
    TOOL_ERROR = "TOOL_ERROR"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    CRASHED = "CRASHED"
    EXITED = "EXITED"
    KILLED = "KILLED"
    UNRESPONSIVE = "UNRESPONSIVE"
    KILL_FAILED = "KILL_FAILED"


_UNAVAILABLE = frozenset(
    {
        ReasonCode.GPU_NOT_FOUND,
        ReasonCode.GPU_DRIVER_ERROR,
        ReasonCode.GPU_RUNTIME_MISSING,
        ReasonCode.CUDA_UNAVAILABLE,
        ReasonCode.GPU_BUSY,
        ReasonCode.GPU_LOST,
        ReasonCode.PACKAGE_MISSING,
        ReasonCode.MODEL_MISSING,
        ReasonCode.MODEL_CORRUPT,
        ReasonCode.IMAGE_MISSING,
        ReasonCode.ENGINE_UNREACHABLE,
        ReasonCode.STOPPED,
    }
)


def final_state(code: ReasonCode) -> PluginLifecycleState:
    """UNAVAILABLE where something is missing, FAILED where something broke."""
    return PluginLifecycleState.UNAVAILABLE if code in _UNAVAILABLE else PluginLifecycleState.FAILED
