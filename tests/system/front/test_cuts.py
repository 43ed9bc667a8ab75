"""A host that cannot be reached: its plugins are stale, never FAILED, and no run is executed twice."""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from support.cut_link import BOTH_WAYS, FROM_HOST, TO_HOST
from support.fronted_hosts import FrontedHosts
from support.harness import eventually
from system.front.conftest import Gate

from orchestrator.front.hosts_file import HostEntry, HostsFileError

UNREACHABLE = "HOST_UNREACHABLE"


async def ids(hosts: FrontedHosts) -> dict[str, list[str]]:
    return {
        name: await hosts[name].containers(plugin)
        for name, plugin in (("a", "reader"), ("b", "reader"), ("c", "writer"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("directions", [BOTH_WAYS, (TO_HOST,), (FROM_HOST,)], ids=["both ways", "to it", "from it"])
async def test_a_cut_under_calls_changes_no_state_and_delays_no_health(
    three: FrontedHosts, directions: tuple[str, ...]
) -> None:
    """5 s of silence under 20 calls a second: health within 100 ms, stale within 3 s of silence, nothing FAILED."""
    client = await three.open()
    before = await ids(three)
    waits: list[float] = []
    states, ended, statuses = set[tuple[str, str]](), False, set[int]()

    async def watch() -> None:
        while not ended:
            began = time.perf_counter()
            plugins = (await client.get("/v1/plugins")).json()
            health = await client.get("/v1/plugins/writer/health")
            waits.append((time.perf_counter() - began) / 2)
            assert health.status_code == 200
            states.update((plugin["name"], plugin["state"]) for plugin in plugins)
            states.update((each["name"], each["state"]) for each in (health.json(),))
            await asyncio.sleep(0.03)

    async def call() -> None:
        calls = []
        while not ended:
            calls.append(asyncio.create_task(three.run("reader", "read")))
            await asyncio.sleep(0.05)
        statuses.update([(await each).status_code for each in calls])

    tasks = [asyncio.create_task(watch()), asyncio.create_task(call())]
    await asyncio.sleep(0.5)
    three.network["c"].cut(directions)
    silent = time.monotonic()
    while not (await three.health("writer"))["stale"]:
        assert time.monotonic() - silent < 3.2
        await asyncio.sleep(0.02)
    assert (await three.states())["c"] == "STALE"
    refused = await three.run("writer", "write")
    assert (refused.status_code, refused.json()["reason_code"]) == (503, UNREACHABLE)
    assert "Nothing was started" in refused.json()["error"] and refused.headers["retry-after"] == "1"
    await asyncio.sleep(max(0.0, 5.0 - (time.monotonic() - silent)))
    three.network["c"].restore()
    await three.until_host("c", "ONLINE")
    assert (await three.health("writer"))["stale"] is False
    assert (await three.run("writer", "write")).json()["result"] == 2
    ended = True
    await asyncio.gather(*tasks)
    assert {state for _, state in states} <= {"INITIALIZED", "RUNNING"}
    assert statuses == {200}
    assert await ids(three) == before
    # Not the slowest: three hosts, the front and this test share a loop, whose own stalls are among them.
    assert statistics.median(waits) < 0.1, sorted(waits)[-10:]


async def test_a_run_whose_connection_breaks_is_unknown_and_sent_to_nobody_else(
    three: FrontedHosts, gate: Gate
) -> None:
    """It goes on where it is, and what became of it shows once the host answers again."""
    client = await three.open()
    run = asyncio.create_task(three.run("reader", "wait"))
    await eventually(lambda: three.known.load("a", "reader") == 1, "the run is at a")
    await three["a"].until("reader", lambda health: health["in_flight"] == 1)
    three.network["a"].break_off()
    answer = await run
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["reason_code"], found["run_state"]) == (502, UNREACHABLE, "unknown")
    assert (found["plugin"], found["tool"], found["host"]) == ("reader", "wait", "a")
    assert answer.headers["x-run-id"] == found["run_id"]
    assert (await three["b"].health("reader"))["success_count"] == 0
    settled = (await client.get(f"/v1/runs/{found['run_id']}")).json()
    assert (settled["host"], settled["plugin"]) == ("a", "reader")


async def test_a_host_that_refuses_connections_gets_nothing_and_another_takes_the_run(three: FrontedHosts) -> None:
    """Before anything is sent a run is at no host, so it may go to the next."""
    await three.open()
    three.network["a"].refuse()
    answers = [await three.run("reader", "read") for _ in range(3)]
    assert [(each.status_code, each.headers["x-host"]) for each in answers] == [(200, "b")] * 3
    three.network["c"].refuse()
    refused = await three.run("writer", "write")
    assert (refused.status_code, refused.json()["reason_code"]) == (503, UNREACHABLE)
    assert (await three["c"].health("writer"))["success_count"] == 0


async def test_an_id_that_was_sent_once_makes_one_run(three: FrontedHosts) -> None:
    """Through any front, whatever load it sees."""
    await three.open()
    other = await three.open_front(three.entries)
    ids_ = [f"{number:032x}" for number in range(12)]
    for run_id in ids_:
        both = await asyncio.gather(*(
            client.post("/v1/plugins/reader/tools/read/run", json={}, headers={"X-Run-Id": run_id})
            for client in (three.client, other, three.client)
        ))  # fmt: skip
        assert sorted(answer.status_code for answer in both) == [200, 409, 409]
    counts = [(await three[name].health("reader"))["success_count"] for name in "ab"]
    assert sum(counts) == len(ids_) and all(counts)


async def test_an_id_is_not_sent_while_a_host_that_may_have_it_is_silent(three: FrontedHosts) -> None:
    """Nobody could tell whether it would be executed twice. Without an id the run goes elsewhere."""
    await three.open()
    three.network["a"].cut()
    await three.until_host("a", "STALE")
    answer = await three.run("reader", "read", {"X-Run-Id": "f" * 32})
    assert (answer.status_code, answer.json()["run_state"]) == (503, "unknown")
    assert (await three.run("reader", "read")).status_code == 200
    gone = await three.client.get(f"/v1/runs/{'e' * 32}")
    assert (gone.status_code, gone.json()["run_state"]) == (503, "unknown")


async def test_a_stream_that_breaks_off_says_so_in_its_last_event(three: FrontedHosts) -> None:
    """Between two events; the caller need not guess."""
    three["c"].add("counter", tools={"count": _count})
    client = await three.open()
    lines: list[str] = []
    headers = {"Accept": "application/x-ndjson"}
    async with client.stream("POST", "/v1/plugins/counter/tools/count/run", json={}, headers=headers) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if len(lines) == 2:
                three.network["c"].break_off()
    assert '"event":"end"' in lines[-1] and '"run_state":"unknown"' in lines[-1] and '"status":502' in lines[-1]


async def _count() -> Any:
    for number in range(1000):
        yield number
        await asyncio.sleep(0.02)


async def test_two_fronts_at_once(three: FrontedHosts) -> None:
    """Each has what the other has done within two seconds; neither needs the other."""
    await three.open()
    other = await three.open_front(three.entries)
    await three.client.post("/v1/plugins/writer/stop")
    async with asyncio.timeout(2):
        while (await other.get("/v1/plugins")).json()[1]["state"] != "UNAVAILABLE":
            await asyncio.sleep(0.02)
    assert (await other.post("/v1/plugins/writer/start", params={"wait": 5})).json()["state"] == "INITIALIZED"
    async with asyncio.timeout(2):
        while (await three.health("writer"))["generation"] != 2:
            await asyncio.sleep(0.02)


async def test_a_host_that_comes_back_with_other_plugins(three: FrontedHosts) -> None:
    """All is listed anew after a cut: what has changed meanwhile is seen."""
    client = await three.open()
    three.network["c"].cut()
    await three.until_host("c", "STALE")
    three["c"].add("another", tools={"read": lambda: 5})
    await three["c"].client.post("/v1/plugins/another/start", params={"wait": 5})
    await three["c"].client.post("/v1/plugins/writer/stop")
    assert [plugin["name"] for plugin in (await client.get("/v1/plugins")).json()] == ["reader", "writer"]
    three.network["c"].restore()
    await three.until_host("c", "ONLINE")
    plugins = {plugin["name"]: plugin for plugin in (await client.get("/v1/plugins")).json()}
    assert (plugins["another"]["host"], plugins["writer"]["reason_code"]) == ("c", "STOPPED")


async def test_hosts_come_and_go(three: FrontedHosts) -> None:
    """By a new list of them: those that stay go on undisturbed, with keys that are read anew."""
    client = await three.open()
    a, b, c = three.entries
    heard = three.known.directory.hosts["a"].status.since
    await three.known.update([a, c])
    assert await three.states() == {"a": "ONLINE", "c": "ONLINE"}
    assert [instance["host"] for instance in (await three.health("reader"))["instances"]] == ["a"]
    assert (await client.post("/v1/plugins/reader/stop", headers={"X-Host": "b"})).status_code == 404
    await three.known.update([c, b, a])
    await three.until_host("b", "ONLINE")
    assert list(await three.states()) == ["c", "b", "a"]
    assert three.known.directory.hosts["a"].status.since == heard
    assert (await three.health("reader"))["replicas"]["ready"] == 2
    with pytest.raises(HostsFileError, match="cannot be read"):
        await three.known.update([a, HostEntry(name="d", address="http://127.0.0.1:1", key_file=Path("/nowhere"))])
    assert len(await three.states()) == 3
