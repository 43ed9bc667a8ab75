"""Each reason code on demand, in real containers: what is answered is what the recorded contract says.

`--write-contract` records what is answered now.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.waiting import PATIENCE

from orchestrator.lifecycle import ReasonCode
from orchestrator.simulation.faults import NEEDS_GPU, PLACES, Place
from orchestrator.testing import Orchestrator, OrchestratorContainer, StandIn, contract
from orchestrator.testing.contract import FILE, VERSION, Answer, Recorded, normalized

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

LIMITED = {"limits": {"memory": "128MiB", "timeout": "20s"}}
DETECTOR = StandIn("detector", tools={"detect": {"boxes": []}}, manifest={**LIMITED, "queue": 2})
ON_GPU = StandIn("on-gpu", tools={"detect": {"boxes": []}}, gpu=True, manifest=LIMITED)
LIMIT = {"TIMEOUT": "1s"}
_SHOWN_HEADERS = ("retry-after", "content-type")


@pytest.fixture(scope="module")
def orchestrator() -> Iterator[OrchestratorContainer]:
    with OrchestratorContainer([DETECTOR, ON_GPU], gpus="2x24GiB") as started:
        yield started


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest) -> Iterator[dict[str, Recorded]]:
    """What the tests of this module have seen; written where that is asked for."""
    seen: dict[str, Recorded] = {}
    yield seen
    if request.config.getoption("--write-contract") and seen:
        file = Path(contract.__file__).with_name(FILE)
        codes = {**(json.loads(file.read_text())["codes"] if file.exists() else {}), **seen}
        ordered = {code.value: codes[code.value] for code in ReasonCode if code.value in codes}
        file.write_text(json.dumps({"version": VERSION, "codes": ordered}, indent=1, ensure_ascii=False) + "\n")


def call(orchestrator: Orchestrator, plugin: str) -> Answer:
    answer = httpx.post(
        f"{orchestrator.address}/v1/plugins/{plugin}/tools/detect/run",
        json={"size": 1},
        headers={"Authorization": f"Bearer {orchestrator.api_key}"},
        timeout=60,
        trust_env=False,
    )
    headers = {name.title(): answer.headers[name] for name in _SHOWN_HEADERS if name in answer.headers}
    return {"status": answer.status_code, "headers": headers, "body": answer.json()}


def until_settled(orchestrator: Orchestrator, plugin: str, code: str) -> dict[str, Any]:
    """The plugin's health with this code, once the post-mortem of its instance is there."""
    end = time.monotonic() + 40 * PATIENCE
    while True:
        health: dict[str, Any] = dict(orchestrator.client.health(plugin))
        if health["reason_code"] == code and (health["post_mortem"] or PLACES[code] is not Place.CALL):
            return health
        assert time.monotonic() < end, health
        time.sleep(0.05)


@pytest.mark.parametrize("code", ReasonCode)
def test_a_code_on_demand_is_answered_as_recorded(
    orchestrator: OrchestratorContainer, recorded: dict[str, Recorded], code: ReasonCode, request: pytest.FixtureRequest
) -> None:
    """State, code, sentence, status, headers and envelope; afterwards the plugin serves again."""
    plugin = "on-gpu" if code in NEEDS_GPU else "detector"
    assert orchestrator.client.health(plugin)["reason_code"] is None
    with orchestrator.fault(plugin, code, limit=LIMIT.get(code)):
        in_a_call = PLACES[code] is Place.CALL
        answered = call(orchestrator, plugin) if in_a_call else None
        health = until_settled(orchestrator, plugin, code)
        # The next run wakes a parked plugin: that is what it is for.
        refused = call(orchestrator, plugin)
    seen = normalized({"state": health["state"], "call": answered, "refused": refused, "health": health})
    recorded[code.value] = seen
    assert (health["state"], health["simulated"]) == (code.final_state, True)
    assert refused["status"] == (200 if code is ReasonCode.PARKED else 503)
    assert call(orchestrator, plugin)["status"] == 200
    if not request.config.getoption("--write-contract"):
        assert seen == contract.answers()[code.value]
