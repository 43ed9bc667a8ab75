"""What an operator stopped stays stopped when the orchestrator is started anew, and what is parked stays parked."""

import json
from typing import Any

import httpx
import pytest
from support.harness import Harness

STAYS = pytest.mark.parametrize("containers_stay", [True, False])


async def post(harness: Harness, action: str, **options: Any) -> httpx.Response:
    return await harness.client.post(f"/v1/plugins/reader/{action}", **options)


async def opened(harness: Harness, **manifest: Any) -> None:
    harness.add("reader", tools={"read": lambda: "text"}, **manifest)
    await harness.open()
    await harness.settled("reader")


async def started_anew(harness: Harness, *, containers_stay: bool = True) -> dict[str, Any]:
    await harness.shut(containers_stay=containers_stay)
    await harness.open()
    return await harness.settled("reader")


def hold(harness: Harness, held: str) -> None:
    """On file, as by an orchestrator that was killed just then."""
    (file,) = (harness.settings.state_dir / "releases").glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"held": held}))


@STAYS
async def test_a_stopped_plugin_stays_stopped(harness: Harness, containers_stay: bool) -> None:
    """However often the orchestrator is started, until a command starts it; no run does."""
    await opened(harness, replicas=2)
    await post(harness, "stop")
    for _ in range(2):
        health = await started_anew(harness, containers_stay=containers_stay)
        assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "STOPPED")
        assert "An operator stopped it" in health["reason"]
        assert (health["replicas"]["wanted"], health["degraded"]) == (2, False)
        assert await harness.containers("reader") == []
        assert (await harness.run("reader", "read")).json()["reason_code"] == "STOPPED"
    await post(harness, "start", params={"wait": 5})
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    assert (await started_anew(harness, containers_stay=containers_stay))["state"] == "INITIALIZED"


@pytest.mark.parametrize("command", ["start", "restart", "update"])
async def test_a_command_ends_it(harness: Harness, command: str) -> None:
    await opened(harness)
    await post(harness, "stop")
    await started_anew(harness)
    answer = await post(harness, command, params={"wait": 5})
    assert answer.status_code < 300, answer.text
    await harness.until_state("reader", "INITIALIZED", "RUNNING")
    assert (await started_anew(harness))["state"] in ("INITIALIZED", "RUNNING")


async def test_a_stop_that_the_orchestrator_did_not_live_to_end(harness: Harness) -> None:
    """The next one ends it, also where the plugin has changed meanwhile."""
    await opened(harness, replicas=2)
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    await post(harness, "scale", json={"replicas": 3}, params={"wait": 5})
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 3)
    await harness.shut(containers_stay=True)
    hold(harness, "stopped")
    harness.write("reader", image="harness/reader", version="2.0.0", replicas=2)
    await harness.open()
    health = await harness.until("reader", lambda health: health["reason_code"] is not None)
    assert (health["state"], health["reason_code"], health["replicas"]["wanted"]) == ("UNAVAILABLE", "STOPPED", 3)
    assert await harness.containers("reader") == []


@STAYS
async def test_a_parked_plugin_stays_parked(harness: Harness, containers_stay: bool) -> None:
    """Its next run starts it, and it is started by the orchestrator again after that."""
    await opened(harness)
    await post(harness, "park")
    health = await started_anew(harness, containers_stay=containers_stay)
    assert health["reason_code"] == "PARKED"
    assert "before the orchestrator was started anew" in health["reason"]
    assert await harness.containers("reader") == []
    assert (await harness.run("reader", "read")).status_code == 200
    assert (await started_anew(harness, containers_stay=containers_stay))["state"] in ("INITIALIZED", "RUNNING")


async def test_a_park_that_the_orchestrator_did_not_live_to_end(harness: Harness) -> None:
    """What runs is adopted: nothing is lost by that."""
    await opened(harness)
    await post(harness, "scale", json={"replicas": 2}, params={"wait": 5})
    await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    await harness.shut(containers_stay=True)
    hold(harness, "parked")
    await harness.open()
    health = await harness.until("reader", lambda health: health["replicas"]["ready"] == 2)
    assert [instance["generation"] for instance in health["instances"]] == [1, 2]


async def test_one_that_is_parked_for_idleness_stays_parked(harness: Harness) -> None:
    await opened(harness, idle={"after": "1s"})
    await harness.until("reader", lambda health: health["reason_code"] == "PARKED")
    await harness.until_removed("reader")
    assert (await started_anew(harness))["reason_code"] == "PARKED"


async def test_the_orchestrators_own_stop_of_all_plugins_is_none(harness: Harness) -> None:
    """`serve --stop-plugins`: the next one starts them."""
    harness.add("reader", tools={"read": lambda: "text"})
    await harness.open(stop_plugins=True)
    await harness.settled("reader")
    assert (await started_anew(harness))["state"] == "INITIALIZED"


async def test_a_stop_that_cannot_be_stored_is_obeyed(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    await opened(harness)
    await post(harness, "scale", json={"replicas": 1})
    folder = harness.settings.state_dir / "releases"
    for file in folder.glob("*") if folder.is_dir() else ():
        file.unlink()
    if folder.is_dir():
        folder.rmdir()
    folder.write_text("in the way")
    assert (await post(harness, "stop")).json()["reason_code"] == "STOPPED"
    assert "the orchestrator's next start will not know that it is stopped" in caplog.text
