"""Ids of runs behind a front: one id makes one run, whatever becomes of hosts, and a question about it finds it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from support.fronted_hosts import FrontedHosts
from system.front.conftest import Gate

from orchestrator.settings import Settings

ID = "0123456789abcdef0123456789abcdef"
IDS = [f"{number:032x}" for number in range(12)]
OF_A = {"X-Host": "a"}


async def read(client: httpx.AsyncClient, run_id: str, **headers: str) -> httpx.Response:
    headers = {"X-Run-Id": run_id, **headers}
    return await client.post("/v1/plugins/reader/tools/read/run", json={}, headers=headers)


async def executed(hosts: FrontedHosts) -> dict[str, int]:
    return {name: (await hosts[name].health("reader"))["success_count"] for name in "ab"}


def unknown(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("run_state")


async def test_an_id_goes_where_the_plugin_serves(three: FrontedHosts) -> None:
    """Not to a host where it was stopped, as where a placement has never begun it."""
    client = await three.open()
    assert (await client.post("/v1/plugins/reader/stop", headers={"X-Host": "b"})).status_code == 200
    answers = [await read(client, run_id) for run_id in IDS]
    assert [(answer.status_code, answer.headers.get("x-host")) for answer in answers] == [(200, "a")] * len(IDS)


async def test_an_id_goes_on_from_a_host_that_has_started_nothing(three: FrontedHosts) -> None:
    """The front learns within a second that the plugin was stopped there; until then the host's answer says it."""
    client = await three.open()
    before = three.known.directory.hosts["b"].plugins["reader"]
    assert (await three["b"].client.post("/v1/plugins/reader/stop")).status_code == 200
    answers = []
    for run_id in IDS:
        b = three.known.directory.hosts["b"]
        three.known.put(replace(b, plugins={**b.plugins, "reader": before}))  # as before its report came
        answers.append(await read(client, run_id))
    assert [(answer.status_code, answer.headers.get("x-host")) for answer in answers] == [(200, "a")] * len(IDS)
    assert [(await client.get(f"/v1/runs/{run_id}")).json()["host"] for run_id in IDS] == ["a"] * len(IDS)


async def test_an_id_is_not_sent_while_nothing_is_known_of_a_host(three: FrontedHosts) -> None:
    """A front that began while the host with the run was down."""
    client = await three.open()
    assert (await read(client, ID, **OF_A)).status_code == 200
    three.network["a"].cut()
    other = await three.open_front(three.entries, wait_for=["b", "c"])
    assert unknown(await read(other, ID)) == (503, "unknown")
    assert unknown(await read(other, ID, **{"X-Host": "b"})) == (503, "unknown")
    assert await executed(three) == {"a": 1, "b": 0}


async def test_an_id_is_not_sent_while_a_host_does_not_say_whether_it_has_it(three: FrontedHosts) -> None:
    """It has been silent for less than makes it stale. A plugin that is not there is none of its business."""
    client = await three.open()
    other = await three.open_front(three.entries)
    for run_id in IDS:
        assert (await read(client, run_id, **OF_A)).status_code == 200
    three.network["a"].refuse()
    answers = await asyncio.gather(*(read(other, run_id) for run_id in IDS))
    assert [unknown(answer) for answer in answers] == [(503, "unknown")] * len(IDS)
    assert unknown(await other.get(f"/v1/runs/{IDS[0]}")) == (503, "unknown")
    assert (await executed(three))["b"] == 0
    assert (await three.run("writer", "write", {"X-Run-Id": ID})).status_code == 200


async def test_an_id_that_one_host_has_is_not_sent_to_another_that_is_named(three: FrontedHosts) -> None:
    """At the same front and at any other."""
    client = await three.open()
    other = await three.open_front(three.entries)
    assert (await read(client, ID, **OF_A)).status_code == 200
    for front in (client, other):
        again = await read(front, ID, **{"X-Host": "b"})
        assert (again.status_code, again.json()["error_type"]) == (409, "RunIdTaken")
        assert "to the host a already" in again.json()["error"]
    at_once = await asyncio.gather(*(read(client, IDS[1], **{"X-Host": host}) for host in "abab"))
    assert sorted(answer.status_code for answer in at_once) == [200, 409, 409, 409]
    assert sum((await executed(three)).values()) == 2


async def test_a_run_is_found_at_a_host_that_refuses_connections_now(three: FrontedHosts, gate: Gate) -> None:
    """Its answer never began. 404 would say that it was not made."""
    client = await three.open()
    run = asyncio.create_task(three.run("reader", "wait", {"X-Host": "b"}))
    await three["b"].until("reader", lambda health: health["in_flight"] == 1)
    three.network["b"].refuse()
    broken = await run
    assert unknown(broken) == (502, "unknown")
    found = await client.get(f"/v1/runs/{broken.json()['run_id']}")
    assert unknown(found) == (503, "unknown")
    assert found.json()["host"] == "b"
    gate.open.set()


async def test_a_question_about_a_run_ends_once_its_host_is_silent(three: FrontedHosts, gate: Gate) -> None:
    """A cut takes no leave: the connection stays, and nothing comes."""
    client = await three.open()
    run = asyncio.create_task(three.run("reader", "wait", {"X-Host": "b"}))
    await three["b"].until("reader", lambda health: health["in_flight"] == 1)
    run_id = (await three["b"].client.get("/v1/runs")).json()[0]["run_id"]
    three.network["b"].cut()
    answers = await asyncio.gather(client.get(f"/v1/runs/{run_id}/result?wait=60"), client.delete(f"/v1/runs/{run_id}"))
    assert [answer.status_code for answer in answers] == [503, 502]
    assert answers[0].json()["run_state"] == "unknown"
    three.network["b"].restore()
    await three.until_host("b", "ONLINE")
    gate.open.set()
    await run
    assert (await client.get(f"/v1/runs/{run_id}")).json()["host"] == "b"


async def test_where_nothing_was_started_an_id_stays_with_no_host(three: FrontedHosts) -> None:
    """It is sent again to whichever host takes it."""
    client = await three.open()
    stopping = [client.post("/v1/plugins/reader/stop", headers={"X-Host": host}) for host in "ab"]
    assert {answer.status_code for answer in await asyncio.gather(*stopping)} == {200}
    refused = [(await read(client, run_id)).json()["reason_code"] for run_id in IDS]
    assert refused == ["STOPPED"] * len(IDS)
    start = await client.post("/v1/plugins/reader/start", params={"wait": 5}, headers=OF_A)
    assert start.status_code == 200
    again = [await read(client, run_id) for run_id in IDS]
    assert [answer.status_code for answer in again] == [200] * len(IDS)


async def test_an_id_that_is_none_is_not_remembered(three: FrontedHosts) -> None:
    """Callers choose its length."""
    client = await three.open()
    refused = await read(client, "x" * 5000, **{"X-Host": "b"})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "InvalidRunId")
    unknown_run = await client.get(f"/v1/runs/{'x' * 5000}")
    assert (unknown_run.status_code, unknown_run.headers["x-host"]) == (
        404,
        "a",
    )  # any host, not the one it was sent to


async def test_a_body_about_a_run_that_never_comes(three: FrontedHosts, tmp_path: Path) -> None:
    three.front_settings = Settings(state_dir=tmp_path / "impatient", upload_idle_timeout="1s")
    client = await three.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(f"DELETE /v1/runs/{ID} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_front_without_hosts_says_so(three: FrontedHosts) -> None:
    client = await three.open()
    await three.known.update([])
    for answer in (await read(client, ID), await client.get(f"/v1/runs/{ID}"), await client.delete(f"/v1/runs/{ID}")):
        assert (answer.status_code, answer.json()["reason_code"]) == (503, "HOST_UNREACHABLE")
        assert "no hosts" in answer.json()["error"]
