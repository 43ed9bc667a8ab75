"""Updates and reverts by the client: begun once, awaited in short requests, refused by errors with names."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from support.scripted_transport import ScriptedTransport

from orchestrator.client import (
    CommandRefused,
    NothingToRevert,
    NotParked,
    RestartRefused,
    RunNotFinished,
    UnexpectedAnswer,
    UpdateUnderWay,
    models,
    operations,
)
from orchestrator.client.errors import error_of
from orchestrator.health.update_report import ReleaseReport, UpdateReport


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch):
    monkeypatch.setattr(operations, "_POLL_INTERVAL", 0.0)


def update(step: str = "PROPOSED", name: str = "4f2a", **rest: Any) -> dict[str, Any]:
    return {"id": name, "step": step, "ended": step in ("SETTLED", "REJECTED"), **rest}


def listed(*updates: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=list(updates))


def begun(step: str = "PROPOSED") -> httpx.Response:
    return httpx.Response(202, json=update(step))


def asked(transport: ScriptedTransport) -> list[str]:
    return [f"{request.method} {request.url.path.rpartition('/')[2]}" for request in transport.requests]


def test_the_fields_are_those_of_the_answer():
    assert models.Update.__required_keys__ == set(UpdateReport.model_fields)
    assert models.Release.__required_keys__ == set(ReleaseReport.model_fields)


@pytest.mark.parametrize("end", ["SETTLED", "REJECTED"])
@pytest.mark.parametrize("method", ["update", "revert"])
async def test_its_end_is_awaited_among_others(make, method, end):
    """A proxy's error does not end the wait; a rejection is an answer and no error."""
    other = update("SETTLED", "earlier")
    gateway = httpx.Response(502, html="<html>Bad Gateway</html>")
    transport = ScriptedTransport(begun(), listed(update("PROVING"), other), gateway, listed(update(end), other))
    found = await make("http://orchestrator", transport=transport)(method, "echo")
    assert found == update(end)
    assert asked(transport) == [f"POST {method}", "GET updates", "GET updates", "GET updates"]


async def test_the_strategy_is_sent(make):
    transport = ScriptedTransport(begun("SETTLED"))
    await make("http://orchestrator", transport=transport)("update", "echo", "replace")
    assert json.loads(transport.requests[0].content) == {"strategy": "replace"}
    assert transport.requests[0].url.path == "/v1/plugins/echo/update"


async def test_who_wants_to_see_what_goes_on_sees_it_from_the_beginning(make):
    seen: list[tuple[str, str]] = []
    plugin = httpx.Response(200, json={"name": "echo"})
    answers = (begun(), plugin, listed(update("STARTING")), plugin, listed(update("SETTLED")))
    transport = ScriptedTransport(*answers)
    call = make("http://orchestrator", transport=transport)
    await call("update", "echo", on_wait=lambda update, plugin: seen.append((update["step"], plugin["name"])))
    assert seen == [("PROPOSED", "echo"), ("STARTING", "echo")]
    assert transport.requests[0].url.params["wait"] == "0"


@pytest.mark.parametrize("method", ["update", "revert"])
async def test_without_a_wait_it_is_under_way(make, method):
    transport = ScriptedTransport(begun())
    assert (await make("http://orchestrator", transport=transport)(method, "echo", wait=0))["step"] == "PROPOSED"
    assert len(transport.requests) == 1


@pytest.mark.parametrize("answer", [httpx.Response(200, json={"name": "echo"}), httpx.Response(200, json=[])])
async def test_an_answer_that_is_no_update_is_said(make, answer):
    with pytest.raises(UnexpectedAnswer):
        await make("http://orchestrator", transport=ScriptedTransport(answer))("update", "echo")


REFUSED = {
    "UpdateUnderWay": ("update", UpdateUnderWay),
    "NothingToRevert": ("revert", NothingToRevert),
    "NotParked": ("park", NotParked),
    "RestartRefused": ("restart", RestartRefused),
    "NotQuarantined": ("release_gpu", CommandRefused),
}


@pytest.mark.parametrize("error_type", REFUSED)
async def test_a_refusal_has_its_own_error(make, error_type):
    method, kind = REFUSED[error_type]
    answer = httpx.Response(409, json={"ok": False, "error": "No.", "error_type": error_type})
    with pytest.raises(CommandRefused, match=r"No\.") as caught:
        await make("http://orchestrator", transport=ScriptedTransport(answer))(method, "echo")
    assert type(caught.value) is kind


def test_a_run_that_has_not_ended_is_no_refusal():
    assert type(error_of(409, {"error_type": "RunNotFinished"})) is RunNotFinished


async def test_the_list_is_given_as_it_is(make):
    transport = ScriptedTransport(listed(update("SETTLED"), update("REJECTED", "earlier")))
    found = await make("http://orchestrator", transport=transport)("updates", "echo")
    assert [each["step"] for each in found] == ["SETTLED", "REJECTED"]
