"""Three hosts behind a front answer as one orchestrator does."""

import asyncio
import json
from contextlib import aclosing

import httpx
import pytest
from support.fronted_hosts import FrontedHosts
from support.harness import TIMEOUT, eventually
from system.front.conftest import Gate


async def test_the_list_has_each_plugin_once(three: FrontedHosts) -> None:
    client = await three.open()
    plugins = (await client.get("/v1/plugins")).json()
    assert [(p["name"], p["state"], p["replicas"]["ready"]) for p in plugins] == [
        ("reader", "INITIALIZED", 2),
        ("writer", "INITIALIZED", 1),
    ]
    assert [instance["host"] for instance in plugins[0]["instances"]] == ["a", "b"]
    assert plugins[1]["host"] == "c"


async def test_what_was_done_shows_in_the_next_answer(three: FrontedHosts) -> None:
    """As without a front, however many runs and whichever host they went to. Unless a host is late, as on a machine
    that is busy with other things.
    """
    client = await three.open()
    three.known.fresh_seconds = TIMEOUT
    for count in range(1, 7):
        assert (await three.run("reader", "read")).json()["result"] == 1
        listed = (await client.get("/v1/plugins")).json()[0]
        assert listed["success_count"] == (await three.health("reader"))["success_count"] == count


async def test_runs_go_to_the_host_with_the_least_to_do(three: FrontedHosts, gate: Gate) -> None:
    await three.open()
    waiting = [asyncio.create_task(three.run("reader", "wait")) for _ in range(4)]
    await eventually(lambda: sum(three.known.load(host, "reader") for host in "ab") == 4, "four runs are on their way")
    assert [three.known.load(host, "reader") for host in "ab"] == [2, 2]
    gate.open.set()
    assert sorted([(await run).headers["x-host"] for run in waiting]) == ["a", "a", "b", "b"]


async def test_a_plugin_that_no_host_has_is_404(three: FrontedHosts) -> None:
    client = await three.open()
    for answer in (
        await client.get("/v1/plugins/nobody/health"),
        await three.run("nobody", "read"),
        await client.post("/v1/plugins/nobody/restart"),
        await client.get("/v1/plugins/nobody/logs"),
        await client.get("/v1/plugins/nobody/events"),
    ):
        assert (answer.status_code, answer.json()["error_type"]) == (404, "UnknownPlugin")


async def test_a_run_is_found_wherever_it_is(three: FrontedHosts) -> None:
    """Also by another front, which has not sent it."""
    await three.open()
    started = await three.run("writer", "write", {"Prefer": "respond-async"})
    assert (started.status_code, started.headers["x-host"]) == (202, "c")
    other = await three.open_front(three.entries)
    for client in (three.client, other):
        location = started.headers["location"]
        assert (await client.get(f"{location}/result", params={"wait": 5})).json()["result"] == 2
        assert (await client.get(location)).json()["host"] == "c"
    unknown = await other.get(f"/v1/runs/{'0' * 32}")
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "UnknownRun")


async def test_a_run_is_cancelled_where_it_is(three: FrontedHosts) -> None:
    client = await three.open()
    started = (await three.run("writer", "wait", {"Prefer": "respond-async"})).json()
    cancelled = await client.delete(f"/v1/runs/{started['run_id']}")
    assert cancelled.status_code in (200, 202)
    assert (cancelled.json()["cancel_requested"], cancelled.json()["host"]) == (True, "c")


async def test_runs_of_all_hosts_page_by_page(three: FrontedHosts) -> None:
    """Newest first; the cursor of the last one goes on."""
    client = await three.open()
    for plugin, tool in [("reader", "read"), ("writer", "write")] * 4:
        await three.run(plugin, tool)
    for name in "abc":
        await three[name].app.state.context.history.flush()  # type: ignore[union-attr]
    whole = (await client.get("/v1/runs")).json()
    assert [run["plugin"] for run in whole] == ["writer", "reader"] * 4
    assert {run["host"] for run in whole if run["plugin"] == "writer"} == {"c"}
    paged: list[str] = []
    before = {}
    while page := (await client.get("/v1/runs", params={"limit": 3, **before})).json():
        paged += [run["run_id"] for run in page]
        before = {"before": page[-1]["cursor"]}
    assert paged == [run["run_id"] for run in whole]
    refused = await client.get("/v1/runs", params={"before": "7"})
    assert (refused.status_code, refused.json()["error"]) == (
        422,
        "before: expected a position such as a:120,b:120, as an earlier answer has it",
    )


@pytest.mark.parametrize("command", ["restart", "stop", "park"])
async def test_a_command_without_a_host_means_all_that_have_it(three: FrontedHosts, command: str) -> None:
    client = await three.open()
    answer = await client.post(f"/v1/plugins/reader/{command}", params={"wait": 5} if command == "restart" else {})
    assert answer.status_code == 200, answer.text
    expected = "INITIALIZED" if command == "restart" else "UNAVAILABLE"
    assert [(i["host"], i["state"]) for i in answer.json()["instances"]] == [("a", expected), ("b", expected)]
    if command == "restart":
        assert [instance["generation"] for instance in answer.json()["instances"]] == [2, 2]


async def test_a_command_may_name_its_host(three: FrontedHosts) -> None:
    """Some have to, where the plugin is on several."""
    client = await three.open()
    answer = await client.post("/v1/plugins/reader/scale", json={"replicas": 1})
    assert (answer.status_code, answer.json()["error_type"]) == (409, "HostRequired")
    assert "reader is on a and b." in answer.json()["error"] and "X-Host: a" in answer.json()["error"]
    scaled = await client.post(
        "/v1/plugins/reader/scale", json={"replicas": 2}, headers={"X-Host": "b"}, params={"wait": 5}
    )
    assert (scaled.status_code, scaled.json()["host"], scaled.json()["replicas"]["wanted"]) == (200, "b", 2)
    assert (await three.health("reader"))["replicas"]["wanted"] == 3
    nobody = await client.post("/v1/plugins/reader/stop", headers={"X-Host": "z"})
    assert (nobody.status_code, nobody.json()["error_type"]) == (404, "UnknownHost")


async def test_a_new_folder_is_found_by_a_start(three: FrontedHosts) -> None:
    client = await three.open()
    three["b"].add("latecomer", tools={"read": lambda: 3})
    started = await client.post("/v1/plugins/latecomer/start", params={"wait": 5})
    assert (started.status_code, started.json()["host"], started.json()["state"]) == (200, "b", "INITIALIZED")
    assert (await three.run("latecomer", "read")).json()["result"] == 3


async def test_a_removed_plugin_is_no_longer_listed(three: FrontedHosts) -> None:
    client = await three.open()
    await client.post("/v1/plugins/writer/stop")
    three["c"].remove("writer")
    async with asyncio.timeout(10):
        while "writer" in [plugin["name"] for plugin in (await client.get("/v1/plugins")).json()]:
            await asyncio.sleep(0.05)
    assert (await client.get("/v1/plugins/writer/health")).status_code == 404


async def test_a_caller_may_be_sent_to_the_host_itself(three: FrontedHosts) -> None:
    client = await three.open()
    answer = await client.post("/v1/plugins/writer/tools/write/run", json={}, headers={"Prefer": "redirect"})
    assert (answer.status_code, answer.headers["x-host"]) == (307, "c")
    assert (await client.post(answer.headers["location"], json={})).json()["result"] == 2


async def test_a_run_goes_on_to_the_next_host_only_where_nothing_was_started(three: FrontedHosts, gate: Gate) -> None:
    """A full queue has started nothing; any other refusal is the caller's answer."""
    for name in "ab":
        three[name].write("reader", image="harness/reader", concurrency=1, queue=1)
    await three.open()
    direct = [asyncio.create_task(three["a"].run("reader", "wait")) for _ in range(2)]
    await three["a"].until("reader", lambda health: health["queued"] == 1)
    named = await three.run("reader", "read", {"X-Host": "a"})
    assert (named.status_code, named.json()["error_type"]) == (429, "QueueFull")
    through = [asyncio.create_task(three.run("reader", "wait")) for _ in range(2)]
    await three["b"].until("reader", lambda health: health["queued"] == 1)
    full = await three.run("reader", "read")
    assert (full.status_code, full.json()["error_type"]) == (429, "QueueFull")
    gate.open.set()
    answers = await asyncio.gather(*direct, *through)
    assert [answer.status_code for answer in answers] == [200] * 4
    await three.client.post("/v1/plugins/reader/stop")
    stopped = await three.run("reader", "read")
    assert (stopped.status_code, stopped.json()["reason_code"]) == (503, "STOPPED")


async def test_metrics_name_the_host(three: FrontedHosts) -> None:
    client = await three.open()
    await three.run("writer", "write")
    text = (await client.get("/metrics")).text
    assert 'orchestrator_host_up{host="a"} 1' in text
    assert any('host="c"' in line and 'plugin="writer"' in line for line in text.splitlines())


async def test_gpus_readiness_and_hosts(three: FrontedHosts) -> None:
    client = await three.open()
    gpus = (await client.get("/v1/gpus")).json()
    assert (sorted(gpus["hosts"]), gpus["silent_hosts"]) == (["a", "b", "c"], [])
    assert (await client.get("/readyz")).json() == {"status": "ready", "waiting_for": []}
    assert (await client.get("/healthz")).json()["history"] == {"problem": None, "notice": None, "lost": 0}
    hosts = (await client.get("/v1/hosts")).json()
    assert [(host["name"], host["state"], host["plugins"]) for host in hosts] == [
        ("a", "ONLINE", 1), ("b", "ONLINE", 1), ("c", "ONLINE", 1),
    ]  # fmt: skip


async def test_the_page_and_the_documents_are_there(three: FrontedHosts) -> None:
    client = await three.open()
    for path in ("/", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200, path
    assert (await client.get("/nowhere")).json()["error_type"] == "UnknownRoute"
    assert (await client.post("/mcp", json={})).status_code == 404


async def events_of(answer: httpx.Response, count: int) -> list[tuple[str, str, dict[str, object]]]:
    """The first `count` events of a stream: kind, id, data."""
    found: list[tuple[str, str, dict[str, object]]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(10), aclosing(answer.aiter_lines()) as lines:
        async for line in lines:
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
                if len(found) == count:
                    break
                fields = {}
            else:
                fields = {}
    return found


STREAM = {"Accept": "text/event-stream"}


async def test_events_of_all_hosts_go_on_where_a_reader_was(three: FrontedHosts) -> None:
    """By any front: the id says all. Nothing is missing and nothing comes twice."""
    client = await three.open()
    earlier = (await client.get("/v1/events")).json()
    assert {event["host"] for event in earlier} == {"a", "b", "c"}
    cursor = earlier[-1]["cursor"]
    assert (await client.get("/v1/events", params={"after": cursor})).json() == []
    for name in "abc":
        plugin = "writer" if name == "c" else "reader"
        assert (await three[name].client.post(f"/v1/plugins/{plugin}/stop")).status_code == 200
    listed = (await client.get("/v1/events", params={"after": cursor})).json()
    assert sorted(event["host"] for event in listed) == ["a", "b", "c"]
    async with client.stream("GET", "/v1/events", headers={**STREAM, "Last-Event-ID": cursor}) as answer:
        first = await events_of(answer, 1)
    other = await three.open_front(three.entries)
    async with other.stream("GET", "/v1/events", headers={**STREAM, "Last-Event-ID": first[0][1]}) as answer:
        rest = await events_of(answer, 2)
    assert sorted(str(data["host"]) for _, _, data in [*first, *rest]) == ["a", "b", "c"]
    assert all(data["state"] == "UNAVAILABLE" and data["cursor"] == id_ for _, id_, data in [*first, *rest])


async def test_health_of_all_hosts_as_a_stream(three: FrontedHosts) -> None:
    """One object for a plugin, first as it is and then after a change."""
    client = await three.open()
    async with client.stream("GET", "/v1/events", headers=STREAM, params={"include": "health"}) as answer:
        assert answer.status_code == 200
        first = asyncio.create_task(events_of(answer, 2))
        plugins = {str(data["name"]): data for kind, _, data in await first if kind == "health"}
    assert sorted(plugins) == ["reader", "writer"]
    assert plugins["reader"]["replicas"] == {"wanted": 2, "ready": 2, "in_manifest": 2}
    async with client.stream(
        "GET", "/v1/plugins/writer/events", headers=STREAM, params={"include": "health"}
    ) as answer:
        assert [data["name"] for _, _, data in await events_of(answer, 1)] == ["writer"]
