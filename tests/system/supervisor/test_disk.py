"""A plugin's disk: its scratch folder is bounded as far as the engine can, and its cache outlives its instances."""

import asyncio
import json
from typing import Any

import pytest
from support.harness import Harness
from typer.testing import CliRunner

from orchestrator.cli import cache as commands
from orchestrator.containers.spec import Volume

GIB = 1024**3


def scratch_check(health: dict[str, Any]) -> dict[str, Any]:
    (check,) = [check for check in health["checks"] if check["name"] == "limits.scratch"]
    return dict(check)


# The scratch folder


async def test_health_says_how_the_limit_is_enforced(harness: Harness) -> None:
    """By nobody, where neither the engine nor the runtime can; by a watch; by a quota, also after an adoption."""
    harness.add("reader", limits={"scratch": "2GiB"})
    await harness.open()
    await harness.settled("reader")
    check = scratch_check(await harness.until("reader", lambda health: bool(health["checks"])))
    assert check["detail"].startswith("no: ")
    harness.instance("reader").set_status(scratch={"limit_bytes": 2 * GIB, "used_bytes": 0})
    await harness.until("reader", lambda health: scratch_check(health)["detail"].startswith("watched: over 2 GiB"))
    harness.engine.quotas = True
    await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert harness.instance("reader").spec.volumes == (Volume("/scratch", size=2 * GIB),)
    await harness.until("reader", lambda health: scratch_check(health)["detail"].startswith("quota: "))
    harness.engine.quotas = False
    await harness.shut(containers_stay=True)
    await harness.open()
    await harness.until("reader", lambda health: scratch_check(health)["detail"].startswith("quota: "))


async def test_a_plugin_over_its_limit_is_ended(harness: Harness) -> None:
    """With what it takes, what it may, and what to do; a little over it, for whole blocks, it is not."""
    harness.add("reader", limits={"scratch": "2GiB"})
    await harness.open()
    await harness.settled("reader")
    harness.instance("reader").set_status(scratch={"limit_bytes": 2 * GIB, "used_bytes": int(2.01 * GIB)})
    await harness.until("reader", lambda health: scratch_check(health)["detail"].startswith("watched"))
    assert (await harness.health("reader"))["state"] == "INITIALIZED"
    harness.instance("reader").set_status(scratch={"limit_bytes": 2 * GIB, "used_bytes": 3 * GIB})
    health = await harness.until_state("reader", "FAILED")
    assert health["reason_code"] == "TOOL_ERROR"
    assert all(phrase in health["reason"] for phrase in ("3 GiB", "2 GiB", "`limits.scratch`"))


async def test_a_plugin_that_fills_its_disk_while_it_starts(harness: Harness) -> None:
    """No tool is to blame."""
    full = {"phase": "starting", "scratch": {"used_bytes": 3 * GIB}}
    harness.add("reader", limits={"scratch": "2GiB"}, start=[(0.0, full), (3600, {"phase": "ready"})])
    await harness.open()
    assert (await harness.until_state("reader", "FAILED"))["reason_code"] == "INIT_ERROR"


@pytest.mark.parametrize("value", [None, "much", -1, True, [], {"used_bytes": "x"}, {"used_bytes": True}, 1 << 70])
async def test_whatever_a_runtime_says_of_it_is_harmless(harness: Harness, value: Any) -> None:
    """It comes from a container."""
    harness.add("reader")
    await harness.open()
    await harness.settled("reader")
    harness.instance("reader").set_status(scratch=value, ready_seconds=5.0)
    await harness.until("reader", lambda health: bool(health["checks"]))
    assert (await harness.health("reader"))["state"] == "INITIALIZED"


# The cache


def cache(harness: Harness, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The command, on the harness's engine and settings."""
    monkeypatch.setattr(commands, "docker_engine", lambda _: _Shared(harness.engine))
    monkeypatch.setattr(commands, "read_settings", lambda: harness.settings)
    result = CliRunner().invoke(commands.cache, arguments)
    return result.exit_code, result.output


class _Shared:
    """The engine, which the command must not close."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def close(self) -> None:
        """It is the harness's."""


async def test_a_cache_outlives_instances_images_and_orchestrators(harness: Harness) -> None:
    """The same volume each time; one for each plugin."""
    harness.add("reader", cache="2GiB")
    harness.add("writer", cache="1GiB")
    await harness.open()
    await harness.settled("reader")
    await harness.settled("writer")
    first, other = harness.instance("reader").spec.volumes[1], harness.instance("writer").spec.volumes[1]
    assert first.name != other.name
    harness.write("reader", image="harness/reader", version="2.0.0", cache="3GiB")
    await harness.client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert harness.instance("reader").spec.volumes[1] == first
    await harness.shut()
    await harness.open()
    await harness.settled("reader")
    assert harness.instance("reader").spec.volumes[1] == first
    assert {volume.name for volume in await harness.engine.volumes({})} == {first.name, other.name}


async def test_caches_are_listed_with_their_limits(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose plugin is no longer there."""
    harness.add("reader", cache="2GiB")
    harness.add("writer", cache="1GiB")
    await harness.open()
    await harness.settled("reader")
    await harness.settled("writer")
    (harness.plugins / "writer" / "plugin.yaml").unlink()
    code, output = await _in_thread(cache, harness, monkeypatch, "list", "--json")
    assert code == 0
    assert json.loads(output) == [
        {"plugin": "reader", "size_bytes": 0, "limit_bytes": 2 * GIB},
        {"plugin": "writer", "size_bytes": 0, "limit_bytes": None},
    ]
    code, output = await _in_thread(cache, harness, monkeypatch, "list")
    assert code == 0
    assert "2 GiB" in output and "not in a manifest" in output


async def test_a_cache_is_cleared_only_while_nobody_has_it(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what has it and what to do; the next instance has a new one."""
    harness.add("reader", cache="2GiB")
    await harness.open()
    await harness.settled("reader")
    code, output = await _in_thread(cache, harness, monkeypatch, "clear", "reader")
    assert (code, "orchestrator stop reader" in output) == (1, True)
    assert len(await harness.engine.volumes({})) == 1
    await harness.client.post("/v1/plugins/reader/stop")
    code, output = await _in_thread(cache, harness, monkeypatch, "clear", "reader")
    assert (code, "is cleared" in output) == (0, True), output
    assert await harness.engine.volumes({}) == ()
    code, output = await _in_thread(cache, harness, monkeypatch, "clear", "reader", "nobody")
    assert (code, output.count("has no cache")) == (1, 2)
    await harness.client.post("/v1/plugins/reader/start", params={"wait": 5})
    assert len(await harness.engine.volumes({})) == 1


async def _in_thread(command: Any, *arguments: Any) -> tuple[int, str]:
    # The command has an event loop of its own.
    found: tuple[int, str] = await asyncio.to_thread(command, *arguments)
    return found
