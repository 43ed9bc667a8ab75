"""Every reason code belongs to one final state."""

import msgspec
import pytest
from pydantic import TypeAdapter

from orchestrator.lifecycle import ReasonCode

UNAVAILABLE = [
    "GPU_NOT_FOUND",
    "GPU_DRIVER_ERROR",
    "GPU_RUNTIME_MISSING",
    "CUDA_UNAVAILABLE",
    "GPU_BUSY",
    "GPU_LOST",
    "PACKAGE_MISSING",
    "MODEL_MISSING",
    "MODEL_CORRUPT",
    "SECRET_MISSING",
    "IMAGE_MISSING",
    "LIMITS_UNSUPPORTED",
    "ENGINE_UNREACHABLE",
    "PARKED",
    "STOPPED",
]
FAILED = [
    "MANIFEST_INVALID",
    "BUILD_FAILED",
    "IMPORT_ERROR",
    "INIT_ERROR",
    "VALIDATE_MISSING",
    "VALIDATE_ERROR",
    "STARTUP_TIMEOUT",
    "TOOL_ERROR",
    "INVALID_OUTPUT",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "GPU_OUT_OF_MEMORY",
    "CRASHED",
    "EXITED",
    "KILLED",
    "UNRESPONSIVE",
    "KILL_FAILED",
]


@pytest.mark.parametrize("code", UNAVAILABLE)
def test_what_is_missing_makes_unavailable(code: str) -> None:
    """Something is missing, or an operator stopped the plugin."""
    assert ReasonCode(code).final_state == "UNAVAILABLE"


@pytest.mark.parametrize("code", FAILED)
def test_what_broke_makes_failed(code: str) -> None:
    """Something went wrong."""
    assert ReasonCode(code).final_state == "FAILED"


@pytest.mark.parametrize("code", ReasonCode)
def test_a_code_is_its_name_in_json(code: ReasonCode) -> None:
    """Written and read back as plain text, by either library; its final state is not part of it."""
    text = f'"{code.name}"'
    assert (msgspec.json.encode(code).decode(), TypeAdapter(ReasonCode).dump_json(code).decode()) == (text, text)
    assert msgspec.json.decode(text, type=ReasonCode) is code
    assert TypeAdapter(ReasonCode).validate_json(text) is code


def test_no_code_is_without_its_line_in_the_contract() -> None:
    """A new code is decided on here first."""
    assert {code.value for code in ReasonCode} == set(UNAVAILABLE) | set(FAILED)
