"""Events resume after a broken connection: none is lost and none comes twice."""

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


def stored(*numbers):
    return httpx.Response(200, json=[{"id": number} for number in numbers])


def health(name):
    return f'event: health\ndata: {{"name": "{name}"}}\n\n'.encode()


BROKEN = httpx.ReadError("reset")
SILENT = httpx.ReadTimeout("")
HEARTBEAT = b": still here\n\n"


@pytest.mark.parametrize("end", [[], [BROKEN], [SILENT], [event(3)[:20], BROKEN]])
async def test_it_resumes_after_the_last_event_however_the_connection_ended(make, end):
    stream = [event(2), HEARTBEAT, event(3)[:9], event(3)[9:], *end]
    transport = ScriptedTransport(stored(1), stream, BROKEN, BROKEN, [event(4)])
    found = await make("http://orchestrator", transport=transport)("events", limit=5, follow=True, upto=4)
    assert [one["id"] for one in found] == [1, 2, 3, 4]
    assert [request.headers.get("last-event-id") for request in transport.requests] == [None, "1", "3", "3", "3"]
    assert str(transport.requests[0].url) == "http://orchestrator/v1/events?limit=5"


async def test_it_starts_after_what_the_caller_has(make):
    transport = ScriptedTransport(stored(), [event(8)])
    await make("http://orchestrator", transport=transport)("events", "echo", after=7, follow=True, upto=1)
    assert transport.requests[0].url.params["after"] == "7"
    assert transport.requests[1].headers["last-event-id"] == "7"
    assert transport.requests[1].url.path == "/v1/plugins/echo/events"


async def test_where_nothing_is_stored_yet_no_event_is_missed(make):
    transport = ScriptedTransport(stored(), [BROKEN], [event(1)])
    await make("http://orchestrator", transport=transport)("events", follow=True, upto=1)
    assert [request.headers.get("last-event-id") for request in transport.requests] == [None, "0", "0"]


async def test_watching_gives_plugins_and_resumes_after_the_last_event(make):
    transport = ScriptedTransport([health("a"), event(5), health("b"), BROKEN], [health("a")])
    found = await make("http://orchestrator", transport=transport)("watch", upto=3)
    assert [plugin["name"] for plugin in found] == ["a", "b", "a"]
    assert transport.requests[0].url.params["include"] == "health"
    assert transport.requests[1].headers["last-event-id"] == "5"


async def test_an_orchestrator_that_never_answered_is_unreachable_after_the_usual_retries(make):
    transport = ScriptedTransport(httpx.ConnectError("refused"))
    with pytest.raises(Unreachable):
        await make("http://orchestrator", transport=transport, retries=1)("events", follow=True)
    assert len(transport.requests) == 2


async def test_a_refusal_ends_it(make):
    refusal = httpx.Response(403, json={"error": "no", "error_type": "Forbidden"})
    transport = ScriptedTransport(stored(), [event(1)], refusal)
    with pytest.raises(ApiError) as caught:
        await make("http://orchestrator", transport=transport)("events", follow=True)
    assert caught.value.status == 403


async def test_an_answer_that_is_no_event_stream_is_unexpected(make):
    transport = ScriptedTransport(stored())
    with pytest.raises(UnexpectedAnswer):
        await make("http://orchestrator", transport=transport)("events", follow=True)


async def test_watching_says_which_plugin_was_removed(make):
    removed = b'event: removed\ndata: {"name": "a", "state": "FAILED"}\n\n'
    transport = ScriptedTransport([health("a"), removed])
    found = await make("http://orchestrator", transport=transport)("watch", upto=2)
    assert found == [{"name": "a"}, {"name": "a", "state": "FAILED", "removed": True}]
