"""Moves of a plugin from host to host, drained hosts, and what a silent host ends when it is back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.harness import eventually
from support.host_cluster import HostCluster

from orchestrator.front.host_state import HostState

pytestmark = [pytest.mark.one_host, pytest.mark.slow]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[HostCluster]:
    async with HostCluster(tmp_path, "gpu-1", "gpu-2", "gpu-3") as found:
        yield found


async def read() -> str:
    await asyncio.sleep(0.02)
    return "read"


@asynccontextmanager
async def under_calls(
    *clients: httpx.AsyncClient, plugin: str, callers: int = 4
) -> AsyncIterator[list[httpx.Response]]:
    """Callers that call again and again while entered; their answers."""
    answers: list[httpx.Response] = []
    over = asyncio.Event()

    async def call(client: httpx.AsyncClient) -> None:
        while not over.is_set():
            answers.append(await client.post(f"/v1/plugins/{plugin}/tools/read/run", json={}))

    tasks = [asyncio.create_task(call(client)) for client in clients for _ in range(callers)]
    try:
        await eventually(lambda: len(answers) > 10, "calls are answered")
        yield answers
        count = len(answers)
        await eventually(lambda: len(answers) > count + 20, "calls are answered after it too")
    finally:
        over.set()
        await asyncio.gather(*tasks)


def failed(answers: list[httpx.Response]) -> list[str]:
    return [answer.text for answer in answers if not answer.json().get("ok")]


async def test_a_plugin_moves_without_a_failed_call(cluster: HostCluster) -> None:
    """By two fronts, of which one does not know of the move."""
    cluster.add("reader", tools={"read": read}, concurrency=4, queue=64)
    other = await cluster.open()
    client = await cluster.open_front()
    source = (await client.post("/v1/plugins/reader/start?wait=5")).json()["host"]
    to = next(name for name in cluster.harnesses if name != source)
    async with under_calls(client, other, plugin="reader") as answers:
        for here, there in ((source, to), (to, source)):
            moved = await client.post("/v1/plugins/reader/move", json={"to": there, "from": here})
            assert moved.status_code == 200, moved.text
            assert (moved.json()["host"], moved.json()["degraded"]) == (there, False)
            assert await cluster.serving("reader") == [there]
            old = await cluster.harnesses[here].health("reader")
            assert old["reason_code"] == "STOPPED" and f"moved to the host {there}" in old["reason"]
    assert failed(answers) == []


async def test_runs_under_way_end_where_they_began(cluster: HostCluster) -> None:
    """Those that wait too: with `concurrency: 1` the second is queued when the move begins."""

    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "slow"

    cluster.add("reader", tools={"slow": slow, "read": read})
    client = await cluster.open()
    source = (await client.post("/v1/plugins/reader/start?wait=5")).json()["host"]
    to = next(name for name in cluster.harnesses if name != source)
    runs = [asyncio.create_task(client.post("/v1/plugins/reader/tools/slow/run", json={})) for _ in range(2)]
    await cluster.harnesses[source].until("reader", lambda health: health["in_flight"] + health["queued"] == 2)
    assert (await client.post("/v1/plugins/reader/move", json={"to": to})).status_code == 200
    answers = [await run for run in runs]
    assert failed(answers) == []
    assert {answer.headers["x-host"] for answer in answers} == {source}


async def test_a_move_that_fails_changes_nothing(cluster: HostCluster) -> None:
    cluster.add("reader", tools={"read": read})
    client = await cluster.open()
    source = (await client.post("/v1/plugins/reader/start?wait=5")).json()["host"]
    to = next(name for name in cluster.harnesses if name != source)
    cluster.harnesses[to].write_raw("reader", "version: [")
    moved = await client.post("/v1/plugins/reader/move", json={"to": to})
    assert (moved.status_code, moved.json()["error_type"]) == (409, "MoveFailed"), moved.text
    assert moved.json()["reason_code"] == "MANIFEST_INVALID" and f"does not serve on {to}" in moved.json()["error"]
    assert await cluster.serving("reader") == [source]
    health = (await client.get("/v1/plugins/reader/health")).json()
    assert (health["state"], health["degraded"]) == ("INITIALIZED", False), health


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"to": "gpu-9"}, 404, "UnknownHost"),
        ({"to": "gpu-2", "from": "gpu-3"}, 409, "NothingToMove"),
        ({"to": "gpu-1"}, 409, "NothingToMove"),
        ({"to": "gpu-2", "force": True}, 409, "HostAnswers"),
        ({"to": 5}, 422, "InvalidRequest"),
        ({"too": "gpu-2"}, 422, "InvalidRequest"),
    ],
)
async def test_a_move_that_makes_no_sense_is_refused(
    cluster: HostCluster, body: dict[str, object], status: int, kind: str
) -> None:
    cluster.add("reader", tools={"read": read}, placement={"hosts": ["gpu-1", "gpu-2"]})
    client = await cluster.open()
    await client.post("/v1/plugins/reader/start?wait=5", headers={"X-Host": "gpu-1"})
    answer = await client.post("/v1/plugins/reader/move", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind), answer.text


async def test_a_drained_host_is_emptied_without_a_failed_call(cluster: HostCluster) -> None:
    """Of ten plugins three have runs under way. Every front knows of it, and gives the host nothing new; what fits
    nowhere else stays, and is named.
    """
    cluster.labels = {"gpu-1": {"rack": "7"}}
    names = [f"reader-{number}" for number in range(10)]
    for name in names:
        cluster.add(name, tools={"read": read}, concurrency=4, queue=64)
    cluster.add("bound", placement={"requires": {"label.rack": "7"}})
    client = await cluster.open()
    for name in (*names, "bound"):
        assert (await client.post(f"/v1/plugins/{name}/start?wait=5", headers={"X-Host": "gpu-1"})).status_code == 200
    async with (
        under_calls(client, plugin="reader-0", callers=2) as first,
        under_calls(client, plugin="reader-5", callers=2) as second,
        under_calls(client, plugin="reader-9", callers=2) as third,
    ):
        drained = await client.post("/v1/hosts/gpu-1/drain")
    assert drained.status_code == 200, drained.text
    assert sorted(each["plugin"] for each in drained.json()["moved"]) == names
    assert [each["plugin"] for each in drained.json()["remaining"]] == ["bound"]
    assert "gpu-2 has no label rack" in drained.json()["remaining"][0]["reason"]
    assert failed([*first, *second, *third]) == []
    for name in names:
        assert "gpu-1" not in await cluster.serving(name)
    assert await cluster.serving("bound") == ["gpu-1"]
    # Another front, that was not asked, and one that comes later.
    other = await cluster.open_front()
    await eventually(lambda: cluster.known("gpu-1").status.state is HostState.DRAINING, "the other front knows")
    cluster.add("later")
    await other.post("/v1/plugins/later/start?wait=5")
    assert await cluster.serving("later") != ["gpu-1"]
    assert (await other.post("/v1/hosts/gpu-1/resume")).status_code == 200
    await eventually(lambda: cluster.known("gpu-1").status.state is HostState.ONLINE, "it is resumed")


async def test_a_silent_hosts_plugin_moves_by_force_alone(cluster: HostCluster) -> None:
    """When the host is back it ends its own within 3 s, and says why: never two for longer."""
    cluster.add("reader", tools={"read": read})
    client = await cluster.open()
    source = (await client.post("/v1/plugins/reader/start?wait=5")).json()["host"]
    to = next(name for name in cluster.harnesses if name != source)
    cluster.links[source].cut()
    await eventually(lambda: cluster.known(source).status.state is HostState.STALE, "it is stale")
    # Nothing starts by itself, nor by a start.
    started = await client.post("/v1/plugins/reader/start?wait=1")
    assert (started.status_code, started.json()["error_type"]) == (409, "NoSuitableHost"), started.text
    assert "move --force" in started.json()["error"]
    moved = await client.post("/v1/plugins/reader/move", json={"to": to})
    assert (moved.status_code, moved.json()["error_type"]) == (409, "HostSilent")
    assert await cluster.serving("reader") == [source]
    moved = await client.post("/v1/plugins/reader/move", json={"to": to, "force": True})
    assert moved.status_code == 200, moved.text
    assert (await client.post("/v1/plugins/reader/tools/read/run", json={})).json()["ok"]
    cluster.links[source].restore()
    began = time.monotonic()
    old = await cluster.harnesses[source].until_state("reader", "UNAVAILABLE")
    assert time.monotonic() - began < 3
    assert old["reason_code"] == "STOPPED"
    assert f"moved by force, while this host was silent, to the host {to}" in old["reason"]
    assert await cluster.serving("reader") == [to]
    # An operator's start there is obeyed from now on, and so is its own restart: it stays ended.
    harness = cluster.harnesses[source]
    await harness.shut()
    await harness.open()
    assert (await harness.health("reader"))["reason_code"] == "STOPPED"


async def test_a_front_that_was_not_there_fences_too(cluster: HostCluster) -> None:
    """The epoch is on the hosts: the front that moved it may be gone."""
    cluster.add("reader", tools={"read": read})
    await cluster.open()
    epoch = {"number": 3, "to": "gpu-2", "ends": ["gpu-1"]}
    for host in ("gpu-1", "gpu-2"):
        await cluster.harnesses[host].client.post("/v1/plugins/reader/start?wait=5")
    taken = await cluster.harnesses["gpu-2"].client.post("/v1/plugins/reader/take-over", json={"epoch": epoch})
    assert taken.status_code == 200, taken.text
    assert await cluster.serving("reader") == ["gpu-1", "gpu-2"]
    await cluster.open_front()
    await cluster.harnesses["gpu-1"].until_state("reader", "UNAVAILABLE")
    assert await cluster.serving("reader") == ["gpu-2"]
    # It has seen that epoch: what an operator starts there now is meant.
    await cluster.harnesses["gpu-1"].client.post("/v1/plugins/reader/start?wait=5")
    await cluster.open_front()
    await asyncio.sleep(0.3)
    assert await cluster.serving("reader") == ["gpu-1", "gpu-2"]


async def test_an_older_epoch_is_refused(cluster: HostCluster) -> None:
    """A front that was cut off cannot undo what another has done since; the highest number outlives a restart."""
    cluster.add("reader")
    await cluster.open()
    harness = cluster.harnesses["gpu-1"]
    newer, older = ({"number": number, "to": "gpu-2", "ends": ["gpu-1"]} for number in (5, 4))
    await harness.client.post("/v1/plugins/reader/take-over", json={"epoch": newer})
    await harness.shut()
    await harness.open()
    for path, body in (("take-over", {"epoch": older}), ("hand-over", {"to": "gpu-2", "epoch": older})):
        answer = await harness.client.post(f"/v1/plugins/reader/{path}", json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (409, "StaleEpoch"), answer.text
        assert "epoch 5" in answer.json()["error"]
    assert (await harness.client.get("/v1/host")).json()["epochs"] == {"reader": newer}


async def test_a_host_is_forgotten_while_it_is_silent_alone(cluster: HostCluster) -> None:
    cluster.add("reader", tools={"read": read})
    client = await cluster.open()
    refused = await client.post("/v1/hosts/gpu-3/forget")
    assert (refused.status_code, refused.json()["error_type"]) == (409, "HostAnswers")
    assert (await client.post("/v1/hosts", json={"name": "gpu-4"})).json()["error_type"] == "HostsInFile"
    assert (await client.post("/v1/hosts/gpu-9/drain")).status_code == 404
    cluster.links["gpu-3"].cut()
    await eventually(lambda: cluster.known("gpu-3").status.state is HostState.STALE, "it is stale")
    forgotten = await client.post("/v1/hosts/gpu-3/forget")
    assert forgotten.status_code == 200 and "hosts.yaml" in forgotten.json()["notice"]
    assert [host["name"] for host in (await client.get("/v1/hosts")).json()] == ["gpu-1", "gpu-2"]
