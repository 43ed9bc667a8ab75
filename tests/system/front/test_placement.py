"""A front places plugins: on which hosts they start, and why not on others."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from support.gpus import FakeGpus, device
from support.host_cluster import HostCluster

from orchestrator.front.placing import Looked, Placing

pytestmark = pytest.mark.one_host


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[HostCluster]:
    async with HostCluster(tmp_path, "gpu-1", "gpu-2", "gpu-3") as found:
        yield found


async def rules(cluster: HostCluster, plugin: str) -> dict[str, str]:
    answer = await cluster.client.get(f"/v1/plugins/{plugin}/placement")
    assert answer.status_code == 200, answer.text
    return {each["host"]: each["rule"] for each in answer.json()["hosts"]}


def give_gpus(cluster: HostCluster, **names: str) -> None:
    """One GPU of this name to each of these hosts; `gpu_1` is the host gpu-1."""
    for host, name in names.items():
        harness = cluster.harnesses[host.replace("_", "-")]
        harness.gpus = FakeGpus(device(0, name=name))
        harness.engine.device_drivers = ("nvidia",)


async def test_a_plugin_starts_on_one_host(cluster: HostCluster) -> None:
    """Though all have its folder; the others say why not, and nothing is missing."""
    cluster.add("reader", tools={"read": lambda: "read"})
    client = await cluster.open()
    assert await cluster.serving("reader") == []
    answer = await client.post("/v1/plugins/reader/start?wait=5")
    assert answer.status_code == 200, answer.text
    plugin = answer.json()
    assert (plugin["state"], plugin["degraded"]) == ("INITIALIZED", False)
    assert plugin["replicas"] == {"wanted": 1, "ready": 1, "in_manifest": 1}
    assert await cluster.serving("reader") == [plugin["host"]]
    assert sorted((await rules(cluster, "reader")).values()) == ["ENOUGH_HOSTS", "ENOUGH_HOSTS", "SERVES"]
    # Once more: it stays where it is.
    await client.post("/v1/plugins/reader/start?wait=5")
    await client.post("/v1/plugins/reader/restart?wait=5")
    assert await cluster.serving("reader") == [plugin["host"]]
    run = await client.post("/v1/plugins/reader/tools/read/run", json={})
    assert run.json()["ok"], run.text


async def test_labels_and_names_choose_hosts(cluster: HostCluster) -> None:
    cluster.labels = {"gpu-2": {"rack": "7"}}
    cluster.add("labelled", placement={"requires": {"label.rack": 7}})
    cluster.add("named", placement={"hosts": ["gpu-1", "gpu-3"]})
    client = await cluster.open()
    for name in ("labelled", "named"):
        assert (await client.post(f"/v1/plugins/{name}/start?wait=5")).status_code == 200
    assert await cluster.serving("labelled") == ["gpu-2"]
    assert await cluster.serving("named") == ["gpu-1", "gpu-3"]
    assert (await rules(cluster, "labelled"))["gpu-1"] == "LABEL_DIFFERS"
    assert (await rules(cluster, "named"))["gpu-2"] == "NOT_NAMED"


async def test_where_no_host_fits_each_says_why(cluster: HostCluster) -> None:
    cluster.add("labelled", placement={"requires": {"label.rack": "7"}})
    client = await cluster.open()
    answer = await client.post("/v1/plugins/labelled/start")
    assert (answer.status_code, answer.json()["error_type"]) == (409, "NoSuitableHost")
    for host in ("gpu-1", "gpu-2", "gpu-3"):
        assert f"{host} has no label rack." in answer.json()["error"]
    assert await cluster.serving("labelled") == []


async def test_replicas_are_spread_over_all_hosts(cluster: HostCluster) -> None:
    cluster.add("reader", replicas=4, placement={"hosts": "all"})
    client = await cluster.open()
    plugin = (await client.post("/v1/plugins/reader/start?wait=5")).json()
    assert plugin["replicas"]["ready"] == 4
    counts = sorted(sum(each["host"] == host for each in plugin["instances"]) for host in cluster.harnesses)
    assert counts == [1, 1, 2]


async def test_a_gpu_is_found_by_its_name(cluster: HostCluster) -> None:
    give_gpus(cluster, gpu_1="Tesla T4", gpu_2="NVIDIA H100 80GB HBM3")
    cluster.add("tracker", requires_gpu=True, placement={"requires": {"gpu.name": "H100", "gpu.memory": "16GiB"}})
    client = await cluster.open()
    plugin = (await client.post("/v1/plugins/tracker/start?wait=5")).json()
    assert (plugin["state"], plugin["host"]) == ("INITIALIZED", "gpu-2"), plugin
    assert await rules(cluster, "tracker") == {"gpu-1": "GPU_NAME_DIFFERS", "gpu-2": "SERVES", "gpu-3": "GPU_MISSING"}


async def test_a_host_whose_gpu_is_taken_is_passed_over(cluster: HostCluster) -> None:
    give_gpus(cluster, gpu_1="T4", gpu_2="T4")
    cluster.add("other", requires_gpu=True, idle={"keep": True})
    cluster.add("tracker", requires_gpu=True, idle={"keep": True})
    client = await cluster.open()
    await client.post("/v1/plugins/other/start?wait=5", headers={"X-Host": "gpu-1"})
    assert await rules(cluster, "tracker") == {"gpu-1": "ENOUGH_HOSTS", "gpu-2": "FITS", "gpu-3": "GPU_MISSING"}
    plugin = (await client.post("/v1/plugins/tracker/start?wait=5")).json()
    assert (plugin["state"], plugin["host"]) == ("INITIALIZED", "gpu-2"), plugin


async def test_a_host_that_refuses_its_gpu_sends_the_front_on(
    cluster: HostCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host alone grants: between the look and the start another plugin has taken it. Nothing of the refused start
    is left there.
    """
    give_gpus(cluster, gpu_1="T4", gpu_2="T4")
    cluster.add("other", requires_gpu=True, idle={"keep": True})
    cluster.add("tracker", requires_gpu=True, idle={"keep": True})
    client = await cluster.open()
    look = Placing.look

    async def late(placing: Placing, plugin: str, leaving: Collection[str] = ()) -> Looked:
        looked = await look(placing, plugin, leaving)
        await cluster.harnesses["gpu-1"].client.post("/v1/plugins/other/start?wait=5")
        return looked

    monkeypatch.setattr(Placing, "look", late)
    plugin = (await client.post("/v1/plugins/tracker/start?wait=5")).json()
    assert (plugin["state"], plugin["host"], plugin["degraded"]) == ("INITIALIZED", "gpu-2", False), plugin
    assert (await cluster.harnesses["gpu-1"].health("tracker"))["reason_code"] == "STOPPED"
    assert await cluster.serving("tracker") == ["gpu-2"]
    assert await cluster.serving("other") == ["gpu-1"]


async def test_a_command_for_one_host_goes_to_where_the_plugin_is(cluster: HostCluster) -> None:
    """Though others have its folder: nobody need name the host."""
    cluster.add("reader")
    client = await cluster.open()
    source = (await client.post("/v1/plugins/reader/start?wait=5")).json()["host"]
    scaled = await client.post("/v1/plugins/reader/scale?wait=5", json={"replicas": 2})
    assert scaled.status_code == 200, scaled.text
    assert {instance["host"] for instance in scaled.json()["instances"]} == {source}
    assert (await client.get("/v1/plugins/reader/health")).json()["replicas"]["wanted"] == 2


async def test_a_scale_is_spread_over_the_hosts_of_the_plugin(cluster: HostCluster) -> None:
    """As many as it says in all; fewer than it has hosts is for one host at a time."""
    cluster.add("reader", placement={"hosts": "all"})
    client = await cluster.open()
    await client.post("/v1/plugins/reader/start?wait=5")
    scaled = await client.post("/v1/plugins/reader/scale", json={"replicas": 5})
    assert scaled.status_code == 200, scaled.text
    wanted = [(await harness.health("reader"))["replicas"]["wanted"] for harness in cluster.harnesses.values()]
    assert sorted(wanted) == [1, 2, 2]
    refused = await client.post("/v1/plugins/reader/scale", json={"replicas": 2})
    assert (refused.status_code, refused.json()["error_type"]) == (409, "HostRequired")
    one = await client.post("/v1/plugins/reader/scale", json={"replicas": 3}, headers={"X-Host": "gpu-1"})
    assert one.status_code == 200, one.text
    assert (await cluster.harnesses["gpu-1"].health("reader"))["replicas"]["wanted"] == 3


async def test_a_stop_and_a_restart_mean_the_hosts_where_it_is(cluster: HostCluster) -> None:
    cluster.add("reader", placement={"hosts": ["gpu-1", "gpu-3"]})
    client = await cluster.open()
    await client.post("/v1/plugins/reader/start?wait=5")
    assert (await client.post("/v1/plugins/reader/restart?wait=5")).status_code == 200
    assert await cluster.serving("reader") == ["gpu-1", "gpu-3"]
    stopped = (await client.post("/v1/plugins/reader/stop")).json()
    assert (stopped["state"], stopped["reason_code"]) == ("UNAVAILABLE", "STOPPED")
    assert await cluster.serving("reader") == []
    await client.post("/v1/plugins/reader/start?wait=5")
    assert await cluster.serving("reader") == ["gpu-1", "gpu-3"]


async def test_what_failed_on_one_host_may_start_on_another(cluster: HostCluster) -> None:
    """The same host first; where it is drained meanwhile another, and what failed before is no fault any more."""

    def fail() -> None:
        raise RuntimeError("broken")

    cluster.add("reader", tools={"fail": fail})
    client = await cluster.open()
    await client.post("/v1/plugins/reader/start?wait=5", headers={"X-Host": "gpu-3"})
    for drained, host in ((False, "gpu-3"), (True, "gpu-1")):
        failed = await client.post("/v1/plugins/reader/tools/fail/run", json={})
        assert failed.status_code == 502
        assert (await client.get("/v1/plugins/reader/health")).json()["reason_code"] == "TOOL_ERROR"
        if drained:
            await client.post("/v1/hosts/gpu-3/drain")
        plugin = (await client.post("/v1/plugins/reader/start?wait=5")).json()
        assert (plugin["state"], plugin["host"], plugin["degraded"]) == ("INITIALIZED", host, False), plugin
