"""Why an instance is FAILED or UNAVAILABLE, as stable codes for programs."""

from enum import StrEnum
from typing import Self

from orchestrator.lifecycle.states import PluginLifecycleState

_UNAVAILABLE = PluginLifecycleState.UNAVAILABLE
_FAILED = PluginLifecycleState.FAILED


class ReasonCode(StrEnum):
    """Why an instance is FAILED or UNAVAILABLE; each code belongs to one of the two."""

    final_state: PluginLifecycleState

    # The default is for type checkers alone, to which a lookup, `ReasonCode("TIMEOUT")`, is a call of this.
    def __new__(cls, code: str, final_state: PluginLifecycleState = _FAILED) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.final_state = final_state
        return member

    # Something is missing, or an operator stopped the plugin
    GPU_NOT_FOUND = "GPU_NOT_FOUND", _UNAVAILABLE
    GPU_DRIVER_ERROR = "GPU_DRIVER_ERROR", _UNAVAILABLE
    GPU_RUNTIME_MISSING = "GPU_RUNTIME_MISSING", _UNAVAILABLE
    CUDA_UNAVAILABLE = "CUDA_UNAVAILABLE", _UNAVAILABLE
    GPU_BUSY = "GPU_BUSY", _UNAVAILABLE
    GPU_LOST = "GPU_LOST", _UNAVAILABLE
    PACKAGE_MISSING = "PACKAGE_MISSING", _UNAVAILABLE
    MODEL_MISSING = "MODEL_MISSING", _UNAVAILABLE
    MODEL_CORRUPT = "MODEL_CORRUPT", _UNAVAILABLE
    SECRET_MISSING = "SECRET_MISSING", _UNAVAILABLE
    IMAGE_MISSING = "IMAGE_MISSING", _UNAVAILABLE
    LIMITS_UNSUPPORTED = "LIMITS_UNSUPPORTED", _UNAVAILABLE
    ENGINE_UNREACHABLE = "ENGINE_UNREACHABLE", _UNAVAILABLE
    PARKED = "PARKED", _UNAVAILABLE
    STOPPED = "STOPPED", _UNAVAILABLE

    # Something broke
    MANIFEST_INVALID = "MANIFEST_INVALID", _FAILED
    BUILD_FAILED = "BUILD_FAILED", _FAILED
    IMPORT_ERROR = "IMPORT_ERROR", _FAILED
    INIT_ERROR = "INIT_ERROR", _FAILED
    VALIDATE_MISSING = "VALIDATE_MISSING", _FAILED
    VALIDATE_ERROR = "VALIDATE_ERROR", _FAILED
    STARTUP_TIMEOUT = "STARTUP_TIMEOUT", _FAILED
    TOOL_ERROR = "TOOL_ERROR", _FAILED
    INVALID_OUTPUT = "INVALID_OUTPUT", _FAILED
    TIMEOUT = "TIMEOUT", _FAILED
    OUT_OF_MEMORY = "OUT_OF_MEMORY", _FAILED
    GPU_OUT_OF_MEMORY = "GPU_OUT_OF_MEMORY", _FAILED
    CRASHED = "CRASHED", _FAILED
    EXITED = "EXITED", _FAILED
    KILLED = "KILLED", _FAILED
    UNRESPONSIVE = "UNRESPONSIVE", _FAILED
    KILL_FAILED = "KILL_FAILED", _FAILED
