"""Events follow on: a connection that breaks loses none and gives none twice."""

from __future__ import annotations

import httpx
import pytest
from support.scripted_transport import ScriptedTransport

from orchestrator.client import ApiError, UnexpectedAnswer, Unreachable, streams


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(streams, "PAUSE", 0)


def event(number):
    return f'event: lifecycle\nid: {number}\ndata: {{"id": {number}, "state": "FAILED"}}\n\n'.encode()


def health(name):
    return f'event: health\ndata: {{"name": "{name}"}}\n\n'.encode()


BROKEN = httpx.ReadError("reset")
SILENT = httpx.ReadTimeout("")
HEARTBEAT = b": still here\n\n"


@pytest.mark.parametrize("end", [[], [BROKEN], [SILENT], [event(3)[:20], BROKEN]])
async def test_it_goes_on_behind_the_last_event_however_the_connection_ended(make, end):
    transport = ScriptedTransport([event(1), HEARTBEAT, event(2)[:9], event(2)[9:], *end], BROKEN, BROKEN, [event(3)])
    found = await make("http://orchestrator", transport=transport)("events", follow=True, upto=3)
    assert [one["id"] for one in found] == [1, 2, 3]
    assert [request.headers.get("last-event-id") for request in transport.requests] == [None, "2", "2", "2"]
    assert transport.requests[0].url.path == "/v1/events"


async def test_it_begins_behind_what_the_caller_has(make):
    transport = ScriptedTransport([event(8)])
    await make("http://orchestrator", transport=transport)("events", "echo", after=7, follow=True, upto=1)
    assert transport.requests[0].headers["last-event-id"] == "7"
    assert transport.requests[0].url.path == "/v1/plugins/echo/events"


async def test_watching_gives_plugins_and_takes_events_as_its_place(make):
    transport = ScriptedTransport([health("a"), event(5), health("b"), BROKEN], [health("a")])
    found = await make("http://orchestrator", transport=transport)("watch", upto=3)
    assert [plugin["name"] for plugin in found] == ["a", "b", "a"]
    assert transport.requests[0].url.params["include"] == "health"
    assert transport.requests[1].headers["last-event-id"] == "5"


async def test_an_orchestrator_that_never_answered_is_told_after_the_usual_tries(make):
    transport = ScriptedTransport(httpx.ConnectError("refused"))
    with pytest.raises(Unreachable):
        await make("http://orchestrator", transport=transport, retries=1)("events", follow=True)
    assert len(transport.requests) == 2


async def test_a_refusal_ends_it(make):
    refusal = httpx.Response(403, json={"error": "no", "error_type": "Forbidden"})
    transport = ScriptedTransport([event(1)], refusal)
    with pytest.raises(ApiError) as caught:
        await make("http://orchestrator", transport=transport)("events", follow=True)
    assert caught.value.status == 403


async def test_what_is_no_event_stream_is_told(make):
    transport = ScriptedTransport(httpx.Response(200, json=[]))
    with pytest.raises(UnexpectedAnswer):
        await make("http://orchestrator", transport=transport)("events", follow=True)
