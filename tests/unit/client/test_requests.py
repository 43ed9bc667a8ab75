"""What is sent: the key, names that lead to no other route, and files of any size, streamed."""

from __future__ import annotations

import json
import tracemalloc

import httpx
import pytest
from support.scripted_transport import ScriptedTransport, envelope

from orchestrator.client import Client

MAX_MEMORY = 4 * 1024**2


async def test_the_key_is_sent_as_it_was_given_or_from_the_environment(make, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", "from-environment")
    for key, sent in (("given", "Bearer given"), (None, "Bearer from-environment")):
        transport = ScriptedTransport(httpx.Response(200, json=[]))
        await make("http://orchestrator", key, transport=transport)("plugins")
        assert transport.requests[0].headers["authorization"] == sent


async def test_without_a_key_none_is_sent(make, monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_API_KEY", raising=False)
    transport = ScriptedTransport(httpx.Response(200, json=[]))
    await make(transport=transport)("plugins")
    assert "authorization" not in transport.requests[0].headers
    assert transport.requests[0].url == "http://127.0.0.1:8000/v1/plugins"


@pytest.mark.parametrize(
    ("method", "retry", "prefer"),
    [
        ("run", False, None),
        ("run", True, "retry"),
        ("stream", True, "retry"),
        ("run_async", True, "respond-async, retry"),
        ("run_async", False, "respond-async"),
    ],
)
async def test_a_run_is_to_be_made_again_only_by_clients_that_want_it(make, method, retry, prefer):
    answer = {"ok": True, "result": 1, "run_id": "a", "state": "queued"}
    transport = ScriptedTransport(httpx.Response(200, json=answer))
    await make("http://orchestrator", transport=transport, retry_idempotent=retry)(method, "p", "t", retry=1)
    assert transport.requests[0].headers.get("prefer") == prefer
    assert json.loads(transport.requests[0].content) == {"retry": 1}


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a?b=c", "a#b", "a b", "%2e%2e", "\u00e4"])
async def test_a_name_leads_to_no_other_route(make, name):
    transport = ScriptedTransport(httpx.Response(404, json={"error": "no"}))
    with pytest.raises(Exception, match="no"):
        await make("http://orchestrator", transport=transport)("health", name)
    path = transport.requests[0].url.raw_path.decode()
    assert path.startswith("/v1/plugins/") and path.endswith("/health") and path.count("/") == 4 and "?" not in path


async def test_arguments_are_json_where_there_is_no_file(make):
    transport = ScriptedTransport(envelope())
    arguments = {"text": "42", "boxes": [[1, 2]], "self": 1, "plugin": None}
    await make("http://orchestrator", transport=transport)("run", "echo", "say", **arguments)
    assert json.loads(transport.bodies[0]) == arguments


class Counting(httpx.BaseTransport):
    """Reads a body and stores none of it."""

    size = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        self.size = sum(len(chunk) for chunk in request.stream)
        return envelope()


def test_a_large_file_is_never_held_in_memory(tmp_path):
    large = tmp_path / "film.mp4"
    with large.open("wb") as file:
        file.truncate(200 * 1024**2)
    transport = Counting()
    with Client(transport=transport) as client:
        tracemalloc.start()
        client.run("video", "track", film=large)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert transport.size > 200 * 1024**2
    assert peak < MAX_MEMORY
