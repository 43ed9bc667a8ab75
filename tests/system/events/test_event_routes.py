"""GET /v1/events and GET /v1/plugins/{name}/events over HTTP, as a list and as a stream."""

import asyncio
from typing import Any

import httpx
import pytest
from support.harness import Harness, eventually
from support.server_sent import following, take

from orchestrator.api import sse
from orchestrator.lifecycle import PluginLifecycleState as State

LIFE = [(None, "LOADED"), ("LOADED", "INITIALIZED")]
"""Its first instance started, ready."""


async def opened(harness: Harness, *names: str) -> httpx.AsyncClient:
    for name in names:
        harness.add(name, tools={"read": lambda: "text"})
    client = await harness.open()
    for name in names:
        await harness.until_state(name, "INITIALIZED")
    return client


async def listed(client: httpx.AsyncClient, path: str = "/v1/events", **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def readers(harness: Harness) -> int:
    assert harness.app is not None
    count: int = harness.app.state.context.feed.readers
    return count


# As a list


async def test_a_list_has_every_step_oldest_first(harness: Harness) -> None:
    """Each with its time, generation, states and reason."""
    client = await opened(harness, "reader")
    await client.post("/v1/plugins/reader/stop")
    events = await listed(client)
    assert [(e["previous"], e["state"]) for e in events] == [*LIFE, ("INITIALIZED", "UNAVAILABLE")]
    assert [e["id"] for e in events] == [1, 2, 3]
    assert events[-1]["reason_code"] == "STOPPED" and events[-1]["reason"]
    assert set(events[0]) == {
        "id", "time", "plugin", "generation", "previous", "state", "reason_code", "reason", "host", "caller",
    }  # fmt: skip


async def test_a_list_of_one_plugin(harness: Harness) -> None:
    client = await opened(harness, "reader", "writer")
    assert {e["plugin"] for e in await listed(client)} == {"reader", "writer"}
    of_one = await listed(client, "/v1/plugins/writer/events")
    assert [(e["plugin"], e["previous"], e["state"]) for e in of_one] == [("writer", *step) for step in LIFE]


async def test_a_list_starts_after_an_id_and_ends_at_its_limit(harness: Harness) -> None:
    """Without `after` the limit selects the newest."""
    client = await opened(harness, "reader")
    assert [e["id"] for e in await listed(client, after=1)] == [2]
    assert [e["id"] for e in await listed(client, after=0, limit=2)] == [1, 2]
    assert [e["id"] for e in await listed(client, limit=1)] == [2]
    assert await listed(client, after=2) == []


@pytest.mark.parametrize("query", ["after=-1", "limit=0", "limit=1001", "after=soon", "include=everything"])
async def test_a_query_that_makes_no_sense_is_refused(harness: Harness, query: str) -> None:
    client = await harness.open()
    answer = await client.get(f"/v1/events?{query}")
    assert answer.status_code == 422
    assert query.split("=", maxsplit=1)[0] in answer.json()["error"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_an_unknown_plugin_has_no_events(harness: Harness, accept: str) -> None:
    client = await harness.open()
    answer = await client.get("/v1/plugins/nobody/events", headers={"Accept": accept})
    assert answer.status_code == 404
    assert answer.json()["error_type"] == "UnknownPlugin"


async def test_events_that_the_registry_dropped_come_from_the_history(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In lists and streams, of all plugins and of one; also events from before the orchestrator was started."""
    monkeypatch.setattr("orchestrator.registry.event_log._MAX_EVENTS", 4)
    monkeypatch.setattr("orchestrator.app._RESTORED_EVENTS", 2)
    await opened(harness, "reader", "writer")
    await harness.shut()
    client = await harness.open()
    for name in ("reader", "writer"):
        await harness.until(name, lambda health: health["state"] == "INITIALIZED" and health["generation"] >= 1)
        await client.post(f"/v1/plugins/{name}/restart", params={"wait": 5})
    await harness.app.state.context.history.flush()  # type: ignore[union-attr]
    newest = harness.registry.last_event_id
    assert harness.registry.first_event_id == newest - 3 > 4
    everything = list(range(1, newest + 1))
    assert [e["id"] for e in await listed(client)] == everything
    assert [e["id"] for e in await listed(client, limit=6)] == everything[-6:]
    assert [e["id"] for e in await listed(client, after=1, limit=4)] == [2, 3, 4, 5]
    assert [e["id"] for e in await listed(client, after=1)] == everything[1:]
    of_one = await listed(client, "/v1/plugins/writer/events")
    assert {e["plugin"] for e in of_one} == {"writer"}
    assert of_one == [e for e in await listed(client) if e["plugin"] == "writer"]
    assert await listed(client, "/v1/plugins/writer/events", after=0) == of_one
    monkeypatch.setattr("orchestrator.api.events_router._PAGE", 3)
    async with following(client, after=0) as frames:
        assert [frame.id for frame in await take(frames, newest)] == everything


# As a stream


async def test_a_stream_begins_with_the_next_event(harness: Harness) -> None:
    """And its frames hold the same as the list."""
    client = await opened(harness, "reader")
    async with following(client) as frames:
        await client.post("/v1/plugins/reader/restart", params={"wait": 5})
        seen = await take(frames, 3)
    assert {frame.kind for frame in seen} == {"lifecycle"}
    assert [frame.data for frame in seen] == await listed(client, after=2)
    assert [frame.id for frame in seen] == [frame.data["id"] for frame in seen] == [3, 4, 5]


async def test_a_stream_of_one_plugin_has_no_events_of_others(harness: Harness) -> None:
    client = await opened(harness, "reader", "writer")
    async with following(client, "/v1/plugins/writer/events") as frames:
        await client.post("/v1/plugins/reader/stop")
        await client.post("/v1/plugins/writer/stop")
        (frame,) = await take(frames, 1)
    assert (frame.data["plugin"], frame.data["state"]) == ("writer", "UNAVAILABLE")


@pytest.mark.parametrize("resuming", [{"last_event_id": 1}, {"after": 1}, {"last_event_id": 1, "after": 0}])
async def test_a_stream_resumes_where_it_was_left(harness: Harness, resuming: dict[str, int]) -> None:
    """Nothing twice, nothing omitted, then new events. A browser's Last-Event-ID is newer than its address."""
    client = await opened(harness, "reader")
    async with following(client, **resuming) as frames:
        before = await take(frames, 1)
        await client.post("/v1/plugins/reader/stop")
        (after,) = await take(frames, 1)
    assert [frame.id for frame in (*before, after)] == [2, 3]


async def test_an_unknown_id_starts_at_the_oldest_retained_event(harness: Harness) -> None:
    """It is from an earlier orchestrator whose history was removed."""
    client = await opened(harness, "reader")
    async with following(client, last_event_id=7_000_000) as frames:
        assert [frame.id for frame in await take(frames, 2)] == [1, 2]


async def test_a_silent_stream_has_heartbeats(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
    client = await opened(harness, "reader")
    async with following(client) as frames:
        assert {frame.kind for frame in await take(frames, 3)} == {"comment"}


@pytest.mark.one_host
async def test_readers_are_bounded(tmp_path: Any) -> None:
    """One too many gets 429 and Retry-After until another disconnects. Lists do not count."""
    async with Harness(tmp_path, event_readers=1) as harness:
        client = await opened(harness, "reader")
        async with following(client):
            refused = await client.get("/v1/plugins/reader/events", headers={"Accept": "text/event-stream"})
            assert (refused.status_code, refused.json()["error_type"]) == (429, "TooManyReaders")
            assert int(refused.headers["Retry-After"]) > 0
            assert "ORCHESTRATOR_EVENT_READERS" in refused.json()["error"]
            assert len(await listed(client)) == 2
        await eventually(lambda: readers(harness) == 0, "the reader is removed")
        async with following(client, after=0) as frames:
            assert len(await take(frames, 2)) == 2


@pytest.mark.one_host
async def test_a_stream_ends_when_the_orchestrator_stops(harness: Harness) -> None:
    """In a regular way: the connection does not break."""
    client = await opened(harness, "reader")
    async with following(client, include="health") as frames:
        await take(frames, 1)
        assert harness.app is not None
        harness.app.state.context.shutdown.requested.set()
        async with asyncio.timeout(2):
            assert [frame async for frame in frames] == []


# Health


async def test_health_comes_first_and_after_changes(harness: Harness) -> None:
    """Of all plugins at the beginning, as the health route shows it; then of those that changed."""
    client = await opened(harness, "reader", "writer")
    async with following(client, include="health") as frames:
        first = await take(frames, 2)
        assert [(f.kind, f.id, f.data["name"], f.data["state"]) for f in first] == [
            ("health", None, "reader", "INITIALIZED"),
            ("health", None, "writer", "INITIALIZED"),
        ]
        assert set(first[0].data) == set((await client.get("/v1/plugins")).json()[0])
        await harness.run("writer", "read")
        changed = await take(frames, 2)
    assert [f.kind for f in changed] == ["lifecycle", "health"]
    assert (changed[1].data["name"], changed[1].data["state"]) == ("writer", "RUNNING")
    assert changed[1].data["success_count"] == 1


async def test_health_is_sent_at_most_once_a_second(harness: Harness) -> None:
    """And the last frame is the current state."""
    client = await opened(harness, "reader")
    loop = asyncio.get_running_loop()
    async with following(client, "/v1/plugins/reader/events", include="health") as frames:
        started = loop.time()
        (first,) = await take(frames, 1)

        async def work() -> None:
            while loop.time() - started < 1.6:
                await harness.run("reader", "read")

        working = asyncio.create_task(work())
        received = [first]
        while loop.time() - started < 1.9:
            received += [frame for frame in await take(frames, 1) if frame.kind == "health"]
            if received[-1] is not first and len(received) == 2:
                assert loop.time() - started > 0.9
                await working
        await working
    assert len(received) == 3
    assert received[-1].data["success_count"] == harness.registry.list()[0].success_count


async def test_a_reader_without_health_gets_none(harness: Harness) -> None:
    client = await opened(harness, "reader")
    async with following(client) as plain, following(client, include="health") as full:
        await client.post("/v1/plugins/reader/stop")
        assert {frame.kind for frame in await take(full, 3)} == {"health", "lifecycle"}
        (frame,) = await take(plain, 1)
        assert frame.kind == "lifecycle" and frame.data["state"] == State.UNAVAILABLE
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await take(plain, 1)
