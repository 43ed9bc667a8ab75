"""What an error of the engine means for an instance: the code, and the next step that fits it."""

import pytest

from orchestrator.errors import EngineAddressError, EngineError, EngineRefusedError, EngineUnreachableError
from orchestrator.supervisor.start_verdict import verdict_of_engine

PROXY = "GET /info was refused with 403, not by the engine but by a proxy of its socket. Allow INFO there"
CASES = [
    (EngineUnreachableError("cannot reach it: Connection refused"), "ENGINE_UNREACHABLE", "Start it", "group docker"),
    (EngineUnreachableError("cannot reach it: Permission denied"), "ENGINE_UNREACHABLE", "group docker", "Start it"),
    (EngineAddressError("the docker context 'x' does not exist"), "ENGINE_UNREACHABLE", "'x' does not", "Start it"),
    (EngineRefusedError(PROXY), "INIT_ERROR", "Allow INFO", "Start it"),
]


@pytest.mark.parametrize(("error", "code", "said", "not_said"), CASES)
def test_the_next_step_fits_what_the_engine_lacks(error: EngineError, code: str, said: str, not_said: str) -> None:
    verdict = verdict_of_engine(error, "its image was made ready")
    assert verdict.code == code
    assert said in verdict.reason
    assert not_said not in verdict.reason
