"""A hand-over that was killed half-way: the orchestrator that starts again does not begin the plugin here."""

import asyncio
from pathlib import Path

import pytest
from support.harness import Harness, eventually

from orchestrator.supervisor.hand_over import Epoch
from orchestrator.supervisor.plugin_supervisor import PluginSupervisor

pytestmark = [pytest.mark.one_host]


def supervisor_of(host: Harness) -> PluginSupervisor:
    found = host.app.state.context.fleet.get("reader")
    assert isinstance(found, PluginSupervisor)
    return found


async def start_again(host: Harness, *, containers_stay: bool) -> None:
    await host.shut(containers_stay=containers_stay)
    await host.open(direct=True)


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("containers_stay", [False, True])
async def test_a_forced_one(tmp_path: Path, placed: bool, containers_stay: bool) -> None:
    """Fencing cannot end it: by its epoch this host has obeyed."""
    async with Harness(tmp_path, placed=placed) as host:
        host.add("reader", tools={"read": lambda: 1})
        await host.open(direct=True)
        await host.client.post("/v1/plugins/reader/start?wait=5")
        await supervisor_of(host).record_move("b", Epoch(3, "b", ("a",)))  # the first of a hand-over's writes
        await start_again(host, containers_stay=containers_stay)
        health = await host.until_state("reader", "UNAVAILABLE")
        assert health["reason_code"] == "STOPPED" and "moved to the host b" in health["reason"]
        assert supervisor_of(host).moved_to == "b"
        assert (await host.client.post("/v1/plugins/reader/tools/read/run", json={})).status_code == 503
        # A command has it here again.
        await host.client.post("/v1/plugins/reader/start?wait=5")
        assert (await host.client.post("/v1/plugins/reader/tools/read/run", json={})).json()["ok"]


async def test_one_that_waits_for_runs(tmp_path: Path) -> None:
    async def slow() -> int:
        await asyncio.sleep(30)
        return 1

    async with Harness(tmp_path) as host:
        host.add("reader", tools={"slow": slow}, update={"drain": "20s"})
        await host.open(direct=True)
        await host.settled("reader")
        run = "/v1/plugins/reader/tools/slow/run"
        await host.client.post(run, json={}, headers={"Prefer": "respond-async"})
        leaving = asyncio.create_task(host.client.post("/v1/plugins/reader/hand-over", json={"to": "b"}))
        await eventually(lambda: supervisor_of(host).moved_to == "b", "it is being handed over")
        await start_again(host, containers_stay=True)
        await asyncio.gather(leaving, return_exceptions=True)
        health = await host.until_state("reader", "UNAVAILABLE")
        assert "moved to the host b" in health["reason"]
        assert supervisor_of(host).moved_to == "b"


async def test_an_update_has_a_plugin_here_again(tmp_path: Path) -> None:
    """As a start has; it stays when the orchestrator is started anew."""
    async with Harness(tmp_path) as host:
        host.add("reader", tools={"read": lambda: 1})
        await host.open(direct=True)
        await host.settled("reader")
        assert (await host.client.post("/v1/plugins/reader/hand-over", json={"to": "b"})).status_code == 200
        assert supervisor_of(host).moved_to == "b"
        assert (await host.client.post("/v1/plugins/reader/update?wait=10")).status_code < 300
        await host.until_state("reader", "INITIALIZED", "RUNNING")
        assert supervisor_of(host).moved_to is None
        await start_again(host, containers_stay=True)
        await host.until_state("reader", "INITIALIZED", "RUNNING")
        assert (await host.client.post("/v1/plugins/reader/tools/read/run", json={})).json()["ok"]
