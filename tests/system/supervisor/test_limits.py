"""A container that is not held to its limits runs no plugin, unless a setting allows it and health says so."""

from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness

from orchestrator.errors import EngineRefusedError

HELD = {"memory_bytes": 1 << 30, "swap_bytes": 0, "pids": 128, "cpus": None}
UNLIMITED = dict.fromkeys(HELD)


def start_with(limits: dict[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    """The runtime reports these limits from its start on."""
    return [(0.0, {"limits": limits}), (0.0, {"phase": "ready"})]


def check(health: dict[str, Any]) -> dict[str, Any] | None:
    return next((check for check in health["checks"] if check["name"] == "limits"), None)


async def test_what_is_held_is_no_finding(harness: Harness) -> None:
    harness.add("reader", start=start_with(HELD))
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], check(health)) == ("INITIALIZED", None)
    assert (health["limits"]["memory_bytes"], health["limits"]["pids"]) == (1 << 30, 128)


@pytest.mark.parametrize("discarded", ["memory", "pids"])
async def test_a_limit_that_the_engine_discards_with_a_warning(harness: Harness, discarded: str) -> None:
    """Nothing of the plugin is started."""
    harness.add("reader")
    harness.engine.discards = frozenset({discarded})
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED")
    assert f"`limits.{discarded}`" in health["reason"]
    assert "It said: Your kernel does not support" in health["reason"]
    await harness.until_removed("reader")
    assert "start" not in harness.engine.calls
    assert await harness.containers("reader") == []


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({**HELD, "memory_bytes": None}, "`limits.memory` (1 GiB)"),
        ({**HELD, "pids": None}, "`limits.pids` (128)"),
        ({**HELD, "swap_bytes": None}, "swap included"),
        (UNLIMITED, "`limits.memory` (1 GiB) and `limits.pids` (128)"),
    ],
)
async def test_a_limit_that_an_engine_drops_in_silence(harness: Harness, limits: dict[str, Any], named: str) -> None:
    """The runtime reads its own control group."""
    harness.add("reader", start=start_with(limits))
    await harness.open()
    health = await harness.settled("reader")
    assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED")
    assert named in health["reason"]


async def test_a_setting_allows_it_and_health_says_what_is_true(tmp_path: Path) -> None:
    """Null for what is not limited, and a check that has failed; the post-mortem says the same."""
    async with Harness(tmp_path, allow_unlimited=("memory", "pids")) as harness:
        harness.add("reader", start=start_with(UNLIMITED), tools={"read": lambda: 1})
        harness.engine.discards = frozenset({"memory", "pids"})
        await harness.open()
        health = await harness.settled("reader")
        assert health["state"] == "INITIALIZED"
        limits = health["limits"]
        assert (limits["memory_bytes"], limits["swap_bytes"], limits["pids"]) == (None, None, None)
        assert limits["timeout_seconds"] == 60
        found = check(health)
        assert found is not None
        assert not found["ok"]
        assert "`limits.memory` (1 GiB)" in found["detail"]
        assert "Limitation discarded" in found["detail"]
        assert (await harness.run("reader", "read")).status_code == 200
        await harness.client.post("/v1/plugins/reader/stop")
        report = (await harness.until_removed("reader"))["post_mortem"]
        assert report["limits"]["memory_bytes"] is None


async def test_what_is_not_allowed_is_refused_beside_what_is(tmp_path: Path) -> None:
    async with Harness(tmp_path, allow_unlimited=("pids",)) as harness:
        harness.add("reader", start=start_with(UNLIMITED))
        await harness.open()
        health = await harness.settled("reader")
        assert health["reason_code"] == "LIMITS_UNSUPPORTED"
        assert "limits.pids" not in health["reason"]


@pytest.mark.parametrize("allowed", [(), ("cpus",)])
async def test_cores_that_an_engine_refuses_to_limit(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    """The reason names the field; where it is allowed, the plugin runs without."""
    async with Harness(tmp_path, allow_unlimited=allowed) as harness:
        harness.add("reader", limits={"cpus": 2}, start=start_with(HELD))
        create = harness.engine.create

        async def refuse(spec: Any, **options: Any) -> str:
            if spec.cpus is not None:
                harness.engine.refuse = {"create": "NanoCPUs can not be set, as your kernel does not support CPU CFS"}
            try:
                return await create(spec, **options)
            finally:
                harness.engine.refuse = {}

        harness.engine.create = refuse
        await harness.open()
        health = await harness.settled("reader")
        if allowed:
            assert (health["state"], health["limits"]["cpus"]) == ("INITIALIZED", None)
            assert "`limits.cpus`" in (check(health) or {})["detail"]
        else:
            assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED")
            assert "`limits.cpus` (2" in health["reason"]
            assert "ORCHESTRATOR_DEFAULT_CPUS" in health["reason"]


@pytest.mark.parametrize("allowed", [(), ("swap", "pids"), ("memory", "pids")])
async def test_limits_that_an_engine_refuses_at_the_start_one_after_the_other(
    tmp_path: Path, allowed: tuple[str, ...]
) -> None:
    """As crun does; where they are allowed, the plugin runs without them, and with the others."""
    async with Harness(tmp_path, allow_unlimited=allowed) as harness:
        harness.add("reader", start=start_with({**HELD, "swap_bytes": None, "pids": None}))
        create, start = harness.engine.create, harness.engine.start
        specs: list[Any] = []

        async def remember(spec: Any, **options: Any) -> str:
            specs.append(spec)
            return await create(spec, **options)

        async def refuse(container_id: str) -> None:
            for name, file in (("swap", "memory.swap.max"), ("pids", "pids.max")):
                if not specs[-1].unlimited & {name, "memory" if name == "swap" else name}:
                    said = f"crun: opening file `{file}` for writing: No such file or directory: OCI runtime error"
                    raise EngineRefusedError(said)
            await start(container_id)

        harness.engine.create, harness.engine.start = remember, refuse
        await harness.open()
        health = await harness.settled("reader")
        if allowed == ("swap", "pids"):
            assert health["state"] == "INITIALIZED"
            assert (health["limits"]["memory_bytes"], health["limits"]["pids"]) == (1 << 30, None)
            assert specs[-1].unlimited == {"swap", "pids"}
            assert len(await harness.containers("reader")) == 1
        elif allowed:
            assert health["state"] == "INITIALIZED"
        else:
            assert (health["state"], health["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED")
            assert "swap included" in health["reason"]
            assert "memory.swap.max" in health["reason"]


async def test_an_adopted_container_that_is_not_limited_is_replaced(harness: Harness) -> None:
    """Its successor's start says what is wrong."""
    harness.add("reader", start=start_with(HELD))
    await harness.open()
    before = await harness.settled("reader")
    harness.instance("reader").set_status(limits={**HELD, "memory_bytes": None})
    harness.engine.discards = frozenset({"memory"})
    await harness.shut(containers_stay=True)
    await harness.open()
    after = await harness.settled("reader")
    assert (after["state"], after["reason_code"]) == ("UNAVAILABLE", "LIMITS_UNSUPPORTED")
    assert after["generation"] == before["generation"] + 1


async def test_an_adopted_container_may_run_without_where_that_is_allowed(tmp_path: Path) -> None:
    """Its health says so again."""
    async with Harness(tmp_path, allow_unlimited=("memory", "pids")) as harness:
        harness.add("reader", start=start_with(UNLIMITED))
        await harness.open()
        before = await harness.settled("reader")
        await harness.shut(containers_stay=True)
        await harness.open()
        after = await harness.health("reader")
        assert (after["generation"], after["limits"]["memory_bytes"]) == (before["generation"], None)
        assert check(after) is not None


async def test_a_limit_that_is_lifted_later_ends_nothing(harness: Harness) -> None:
    """An operator's own `docker update`."""
    harness.add("reader", start=start_with(HELD), tools={"read": lambda: 1})
    await harness.open()
    await harness.settled("reader")
    harness.instance("reader").set_status(limits=UNLIMITED)
    assert (await harness.run("reader", "read")).status_code == 200
    assert (await harness.health("reader"))["state"] == "RUNNING"
