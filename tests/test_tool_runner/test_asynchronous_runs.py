"""Asynchronous runs: started with 202, looked up, their results fetched."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.harness import Harness
from test_tool_runner.callers import RUN_ID, result, run_of, start, until

pytestmark = pytest.mark.slow
FIELDS = {
    "run_id", "plugin", "tool", "state", "asynchronous", "accepted_at", "started_at", "finished_at", "generation",
    "outcome", "reason_code", "execution_time_ms", "request_bytes", "response_bytes", "queue_position",
    "cancel_requested", "progress", "id", "caller", "retried_from", "host",
}  # fmt: skip


async def test_a_preference_for_retries_is_applied_to_idempotent_tools(worker: Harness) -> None:
    """`Preference-Applied` says so, beside that of the asynchronous run."""
    await worker.open()
    await worker.settled("worker")
    for tool, prefer, applied in (
        ("again", "retry", "retry"),
        ("again", "respond-async, retry", "respond-async, retry"),
        ("nap", "retry", None),
        ("nap", "retry, respond-async", "respond-async"),
        ("again", "wait=3", None),
    ):
        answer = await worker.client.post(f"/v1/plugins/worker/tools/{tool}/run", json={}, headers={"Prefer": prefer})
        assert answer.status_code in (200, 202)
        assert answer.headers.get("Preference-Applied") == applied
    tools = {tool["name"]: tool for tool in (await worker.client.get("/v1/plugins/worker/tools")).json()}
    assert (tools["again"]["idempotent"], tools["nap"]["idempotent"]) == (True, False)


async def test_a_run_that_nobody_waits_for_is_accepted_at_once(worker: Harness) -> None:
    """202, where it is to be found, and the run itself; its result when it has ended."""
    await worker.open()
    await worker.settled("worker")
    started = time.monotonic()
    answer = await start(worker, "nap", seconds=2, size=3)
    assert time.monotonic() - started < 1.5
    run = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/runs/{run['run_id']}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert set(run) == FIELDS
    assert (run["plugin"], run["tool"], run["asynchronous"], run["outcome"]) == ("worker", "nap", True, None)
    early = await worker.client.get(f"/v1/runs/{run['run_id']}/result")
    assert (early.status_code, early.json()["error_type"]) == (409, "RunNotFinished")
    assert early.headers["Retry-After"] == "1"
    late = await result(worker, run["run_id"])
    assert late.status_code == 200
    assert (late.json()["result"], late.json()["run_id"]) == ("xxx", run["run_id"])
    ended = await run_of(worker, run["run_id"])
    assert (ended["state"], ended["outcome"], ended["response_bytes"]) == ("finished", "ok", 5)
    assert (await worker.health("worker"))["success_count"] == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "status"),
    [("fail", {}, 502), ("refuse", {}, 422), ("nap", {"seconds": "long"}, 422), ("nothing", {}, 404)],
)
async def test_the_result_has_the_status_that_a_synchronous_run_would_have(
    worker: Harness, tool: str, arguments: dict[str, Any], status: int
) -> None:
    """And the same envelope."""
    worker.write("worker", image="harness/worker", failure_policy="tolerant")
    await worker.open()
    direct = await worker.run("worker", tool, **arguments)
    stored = await result(worker, (await start(worker, tool, **arguments)).json()["run_id"])
    assert direct.status_code == stored.status_code == status
    different = ("run_id", "execution_time_ms")
    assert {k: v for k, v in direct.json().items() if k not in different} == {
        k: v for k, v in stored.json().items() if k not in different
    }


async def test_a_generators_progress_is_seen_and_its_items_become_a_list(worker: Harness) -> None:
    """Meanwhile the run says how far it is."""
    await worker.open()
    run_id = (await start(worker, "count", n=10)).json()["run_id"]
    seen = []
    while (run := await run_of(worker, run_id))["state"] != "finished":
        seen.append(run["progress"])
        await asyncio.sleep(0.02)
    fractions = [
        progress["fraction"] for progress in seen if progress is not None and progress["message"] != "starting"
    ]
    assert len(set(fractions)) > 2
    assert fractions == sorted(fractions)
    assert (await result(worker, run_id)).json()["result"] == list(range(10))


async def test_a_large_result_comes_whole(worker: Harness) -> None:
    """From the disk, with its length."""
    await worker.open()
    answer = await result(worker, (await start(worker, "nap", size=3_000_000)).json()["run_id"])
    assert answer.json()["result"] == "x" * 3_000_000
    assert int(answer.headers["Content-Length"]) == len(answer.content)


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_body_is_taken_whole_before_its_run_is_accepted(worker: Harness, size: int) -> None:
    """Short or long, with or without a length: the caller may hang up after 202."""
    await worker.open()
    await worker.settled("worker")
    first = (await start(worker, "nap", seconds=1)).json()["run_id"]

    async def body() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * (size // 10)

    async with httpx.AsyncClient(base_url=worker.client.base_url, trust_env=False, verify=False) as client:
        answer = await client.post(
            "/v1/plugins/worker/tools/measure/run",
            content=body(),
            headers={"Content-Type": "image/png", "Prefer": "respond-async"},
        )
    assert answer.status_code == 202, answer.text
    assert not (await run_of(worker, first))["finished_at"]
    assert (await result(worker, answer.json()["run_id"])).json()["result"] == size
    assert (await run_of(worker, answer.json()["run_id"]))["request_bytes"] == size
    assert not list((worker.settings.state_dir / "spool").glob("*"))


async def test_runs_that_wait_show_their_position(worker: Harness) -> None:
    """First come, first served; one too many is 429 and no run."""
    await worker.open()
    await worker.settled("worker")
    ids = [(await start(worker, "wait", seconds=60)).json()["run_id"] for _ in range(4)]
    await until(worker, ids[0], "running")
    refused = await start(worker, "wait", seconds=0)
    assert refused.status_code == 429
    runs = [await run_of(worker, run_id) for run_id in ids]
    assert [(run["state"], run["queue_position"]) for run in runs] == [
        ("running", None), ("queued", 1), ("queued", 2), ("queued", 3),
    ]  # fmt: skip
    out = await worker.client.delete(f"/v1/runs/{ids[2]}")
    assert (out.status_code, out.json()["outcome"]) == (200, "cancelled")
    assert (await run_of(worker, ids[3]))["queue_position"] == 2
    await worker.client.delete(f"/v1/runs/{ids[0]}")
    await until(worker, ids[1], "running")
    for run_id in (ids[3], ids[1]):
        await worker.client.delete(f"/v1/runs/{run_id}")
        assert (await until(worker, run_id, "finished"))["outcome"] == "cancelled"
    assert (await worker.health("worker"))["queued"] == 0


async def test_a_run_id_is_used_once(worker: Harness) -> None:
    """And is 32 hexadecimal digits."""
    await worker.open()
    route = "/v1/plugins/worker/tools/nap/run"
    assert (await worker.client.post(route, json={}, headers={"X-Run-Id": RUN_ID})).status_code == 200
    for run_id, status in [(RUN_ID, 409), ("../../etc/passwd", 422), (RUN_ID.upper(), 422), ("", 422)]:
        answer = await worker.client.post(route, json={}, headers={"X-Run-Id": run_id})
        assert answer.status_code == status, run_id


async def test_a_run_id_is_used_once_also_by_callers_at_the_same_time(worker: Harness) -> None:
    """A caller that tries again while its first upload still goes on has one run, and the other attempt gets 409."""
    await worker.open()
    await worker.settled("worker")
    both, started = asyncio.Event(), 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal started
        yield b"{"
        started += 1
        if started == 2:
            both.set()
        await both.wait()
        yield b"}"

    headers = {"Content-Type": "application/json", "X-Run-Id": RUN_ID, "Prefer": "respond-async"}
    route = "/v1/plugins/worker/tools/nap/run"
    answers = await asyncio.gather(*(worker.client.post(route, content=body(), headers=headers) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert {answer.json().get("error_type") for answer in answers} == {None, "RunIdTaken"}
    assert (await worker.client.get(f"/v1/runs/{RUN_ID}/result?wait=10")).status_code == 200
    health = await worker.health("worker")
    assert (health["in_flight"], health["queued"], health["success_count"]) == (0, 0, 1)


@pytest.mark.parametrize("header", [{"Prefer": "respond-async"}, {"Content-Length": "2"}], ids=["stored", "short"])
async def test_a_run_id_is_used_once_also_where_the_first_run_ends_before_the_second_upload(
    worker: Harness, header: dict[str, str]
) -> None:
    """The second request came before any run of that id. Nor is an id remembered once no request has it."""
    await worker.open()
    await worker.settled("worker")
    route, uploading, go_on = "/v1/plugins/worker/tools/nap/run", asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        uploading.set()
        await go_on.wait()
        yield b"}"

    headers = {"Content-Type": "application/json", "X-Run-Id": RUN_ID, **header}
    second = asyncio.create_task(worker.client.post(route, content=body(), headers=headers))
    await uploading.wait()
    await asyncio.sleep(0.1)  # its head has been read by then
    assert (await worker.client.post(route, json={}, headers={"X-Run-Id": RUN_ID})).status_code == 200
    go_on.set()
    answer = await second
    assert (answer.status_code, answer.json()["error_type"]) == (409, "RunIdTaken")
    assert (await worker.health("worker"))["success_count"] == 1
    assert worker.app is not None
    assert not worker.app.state.context.tool_runner.idempotency_keys.used(RUN_ID)


async def test_runs_are_listed_newest_first_page_by_page(worker: Harness) -> None:
    """Filtered by plugin and state; those of this moment too."""
    worker.add("reader", tools={"read": lambda: "text"})
    await worker.open()
    await worker.settled("worker")
    for _ in range(3):
        await worker.run("reader", "read")
    running = (await start(worker, "wait", seconds=60)).json()["run_id"]
    await until(worker, running, "running")
    await worker.run("reader", "read")

    async def listed(**query: Any) -> list[dict[str, Any]]:
        answer = await worker.client.get("/v1/runs", params=query)
        assert answer.status_code == 200
        runs: list[dict[str, Any]] = answer.json()
        return runs

    everything = await listed()
    assert [run["plugin"] for run in everything] == ["reader", "worker", "reader", "reader", "reader"]
    pages = await listed(limit=2)
    while page := await listed(limit=2, before=pages[-1]["id"]):
        pages += page
    assert [run["run_id"] for run in pages] == [run["run_id"] for run in everything]
    assert [run["run_id"] for run in await listed(state="running")] == [running]
    assert [run["plugin"] for run in await listed(state="finished", limit=2)] == ["reader", "reader"]
    assert await listed(state="queued") == await listed(plugin="nobody") == []
    assert len(await listed(plugin="reader")) == 4
    for query in [{"limit": 501}, {"limit": 0}, {"state": "lost"}, {"before": "x"}]:
        assert (await worker.client.get("/v1/runs", params=query)).status_code == 422
    await worker.client.delete(f"/v1/runs/{running}")


@pytest.mark.parametrize("run_id", ["f" * 32, "nobody", "..%2F..%2Fhistory.sqlite3"])
async def test_an_unknown_run_is_404_everywhere(worker: Harness, run_id: str) -> None:
    """By every route."""
    await worker.open()
    for method, suffix in [("GET", ""), ("GET", "/result"), ("DELETE", "")]:
        answer = await worker.client.request(method, f"/v1/runs/{run_id}{suffix}")
        assert answer.status_code == 404
        assert answer.json()["ok"] is False


async def test_an_unknown_plugin_begins_nothing(worker: Harness) -> None:
    """Neither does one that has ended: 404 and 503 as ever."""
    await worker.open()
    headers = {"Prefer": "respond-async"}
    assert (await worker.client.post("/v1/plugins/nobody/tools/x/run", json={}, headers=headers)).status_code == 404
    await worker.client.post("/v1/plugins/worker/stop")
    assert (await start(worker, "nap")).status_code == 503


async def test_an_orchestrator_that_stops_leaves_its_asynchronous_runs_to_the_next(worker: Harness) -> None:
    """They go on in their containers."""
    await worker.open()
    run_id = (await start(worker, "nap", seconds=2, size=2)).json()["run_id"]
    await until(worker, run_id, "running")
    await worker.shut(containers_stay=True)
    await worker.open()
    assert (await result(worker, run_id)).json()["result"] == "xx"
    assert (await worker.health("worker"))["success_count"] == 1


async def test_nothing_is_retained_in_the_container_of_a_run_that_has_ended(worker: Harness) -> None:
    """Its result is on the orchestrator's disk by then."""
    await worker.open()
    run_id = (await start(worker, "nap")).json()["run_id"]
    await result(worker, run_id)
    program = worker.runtimes["worker"]
    transport = httpx.AsyncHTTPTransport(uds=str(program.run_dir / "tools.sock"))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, trust_env=False, verify=False) as container:
        assert (await container.get(f"http://plugin/runs/{run_id}")).status_code == 404


async def test_runs_that_wait_outlive_a_restart_of_their_plugin(worker: Harness) -> None:
    """They are made on the new instance; only the one that executed is lost with the old."""
    await worker.open()
    await worker.settled("worker")
    executing = (await start(worker, "nap", seconds=30)).json()["run_id"]
    waiting = [(await start(worker, "nap", size=number)).json()["run_id"] for number in (1, 2)]
    await until(worker, executing, "running")
    restarting = asyncio.create_task(worker.client.post("/v1/plugins/worker/restart", params={"wait": 10}))
    lost = await result(worker, executing)
    direct = await worker.run("worker", "nap", size=3)
    assert (await restarting).json()["generation"] == 2
    assert (lost.status_code, lost.json()["reason_code"]) == (503, "STOPPED")
    assert [(await result(worker, run_id)).json()["result"] for run_id in waiting] == ["x", "xx"]
    assert direct.json()["result"] == "xxx"
    assert [(await run_of(worker, run_id))["generation"] for run_id in (executing, *waiting)] == [1, 2, 2]


async def test_runs_that_wait_end_with_a_plugin_that_is_stopped(worker: Harness) -> None:
    """Nothing is on its way then."""
    await worker.open()
    await worker.settled("worker")
    executing = (await start(worker, "nap", seconds=30)).json()["run_id"]
    waiting = (await start(worker, "nap")).json()["run_id"]
    await until(worker, executing, "running")
    await worker.client.post("/v1/plugins/worker/stop")
    for run_id in (executing, waiting):
        assert (await result(worker, run_id)).status_code == 503


async def test_a_defect_before_the_run_is_accepted_keeps_nobody_waiting(
    worker: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with the general sentence; the log has what it was, and the next run is accepted."""
    await worker.open()
    with monkeypatch.context() as defect:
        defect.setattr("orchestrator.tools.tool_runner.accepted", lambda *_: {}["no such key"])
        answer = await start(worker, "nap")
    assert (answer.status_code, answer.json()["error_type"]) == (500, "InternalError")
    assert "no such key" in caplog.text
    assert (await start(worker, "nap")).status_code == 202
