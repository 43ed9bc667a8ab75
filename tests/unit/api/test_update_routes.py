"""The routes of updates, over a stand-in for the plugin's supervisor."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from msgspec.structs import replace

from orchestrator.access.principal import ANYONE
from orchestrator.api import problems
from orchestrator.api.context import _context, _principal
from orchestrator.api.update_router import router
from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import PostMortem
from orchestrator.supervisor.release_store import ReleaseStoreError
from orchestrator.supervisor.releases import PluginReleases, Release, require_allowed, revert_target, with_proposed
from orchestrator.supervisor.rollout import abandoned
from orchestrator.supervisor.update import AskedStrategy, ReleaseName, Update, proposed

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Plugin:
    """Begins updates and leaves them under way until a test ends them."""

    def __init__(self) -> None:
        self.state = PluginReleases(current=Release("c1", "sha256:1", {"version": "1.2.0"}, "/host/plugins/reader"))
        self.ended = asyncio.Event()
        self.when_waited_for: Callable[[], None] = lambda: None
        self.fault: Exception | None = None

    async def update(self, strategy: AskedStrategy, caller: str | None = None, kind: str = "update") -> Update:
        if self.fault is not None:
            raise self.fault
        require_allowed(kind, self.state)
        if kind == "revert":
            revert_target(self.state, ())
        current = self.state.current
        update = proposed(f"u{len(self.state.updates)}", "reader", NOW, asked=strategy, kind=kind)
        update = replace(update, from_release=current and current.name)
        self.state = with_proposed(self.state, update)
        return update

    async def revert(self, caller: str | None = None) -> Update:
        return await self.update("auto", caller, "revert")

    async def wait_updated(self, update_id: str) -> None:
        assert self.state.update is not None
        assert self.state.update.id == update_id
        self.when_waited_for()
        await self.ended.wait()

    def updates(self) -> tuple[Update, ...]:
        return self.state.updates

    def reject(self, **changes: Any) -> None:
        assert self.state.update is not None
        ended = abandoned(self.state.update, ReasonCode.BUILD_FAILED, "It cannot be built.", NOW)
        self.state = replace(self.state, update=replace(ended, **changes))
        self.ended.set()


class History:
    async def post_mortem_of(self, plugin: str, generation: int) -> PostMortem:
        return PostMortem(NOW, log_tail=f"of {plugin} {generation}")


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
def shutdown() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def client(plugin: Plugin, shutdown: asyncio.Event) -> AsyncIterator[httpx.AsyncClient]:
    async def discover(name: str) -> Plugin | None:
        return plugin if name == "reader" else None

    fleet = SimpleNamespace(discover=discover)
    context = SimpleNamespace(fleet=fleet, history=History(), shutdown=SimpleNamespace(requested=shutdown))
    app = FastAPI()
    problems.install(app)
    app.include_router(router)
    app.dependency_overrides[_context] = lambda: context
    app.dependency_overrides[_principal] = lambda: ANYONE
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x/v1/plugins") as client:
        yield client


async def test_an_update_that_goes_on_is_202(client: httpx.AsyncClient) -> None:
    answer = await client.post("/reader/update", json={"strategy": "replace"})
    assert answer.status_code == 202
    body = answer.json()
    assert (body["id"], body["kind"], body["step"], body["ended"]) == ("u0", "update", "PROPOSED", False)
    assert (body["strategy_asked"], body["from_release"]["version"]) == ("replace", "1.2.0")
    assert body["step_times"] == {"PROPOSED": "2026-01-01T12:00:00Z"}
    assert "/host/" not in answer.text


async def test_one_that_ends_in_time_is_200_with_its_end(client: httpx.AsyncClient, plugin: Plugin) -> None:
    plugin.when_waited_for = lambda: plugin.reject(candidates=(7,))
    answer = await client.post("/reader/update", params={"wait": 30})
    body = answer.json()
    assert (answer.status_code, body["step"], body["reason_code"]) == (200, "REJECTED", "BUILD_FAILED")
    assert body["post_mortem"]["log_tail"] == "of reader 7"


async def test_who_waits_too_short_gets_202(client: httpx.AsyncClient) -> None:
    assert (await client.post("/reader/update", params={"wait": 0.01})).status_code == 202


async def test_a_stop_of_the_orchestrator_ends_the_wait(
    client: httpx.AsyncClient, plugin: Plugin, shutdown: asyncio.Event
) -> None:
    plugin.when_waited_for = shutdown.set
    assert (await client.post("/reader/update", params={"wait": 600})).status_code == 202
    assert (await client.post("/reader/update")).status_code == 503


@pytest.mark.parametrize("second", ["update", "revert"])
async def test_two_at_once_are_refused_with_the_first_s_name(client: httpx.AsyncClient, second: str) -> None:
    await client.post("/reader/update")
    answer = await client.post(f"/reader/{second}")
    body = answer.json()
    assert (answer.status_code, body["error_type"], body["plugin"]) == (409, "UpdateUnderWay", "reader")
    assert body["error"] == (
        "The update u0 of reader is under way: PROPOSED since 12:00:00 UTC. Wait for its end, or stop the plugin, "
        f"which ends it, then {second} again."
    )


async def test_nothing_to_revert_to_is_said(client: httpx.AsyncClient, plugin: Plugin) -> None:
    answer = await client.post("/reader/revert")
    assert (answer.status_code, answer.json()["error_type"]) == (409, "NothingToRevert")
    assert answer.json()["error"].startswith("There is nothing to revert to: ")
    plugin.state = replace(plugin.state, former=plugin.state.current)
    answer = await client.post("/reader/revert")
    assert (answer.status_code, answer.json()["kind"]) == (202, "revert")


@pytest.mark.parametrize("command", ["scale", "restart"])
def test_other_commands_wait_for_an_update_too(command: str) -> None:
    state = with_proposed(PluginReleases(), proposed("u7", "reader", NOW))
    with pytest.raises(Exception, match=f"The update u7 of reader is under way.*then {command} again"):
        require_allowed(command, state)
    assert require_allowed(command, PluginReleases()) is None


async def test_a_disk_that_takes_nothing_is_503(client: httpx.AsyncClient, plugin: Plugin) -> None:
    plugin.fault = ReleaseStoreError("The releases of reader cannot be written.")
    answer = await client.post("/reader/update")
    assert (answer.status_code, answer.json()["error"]) == (
        503,
        "Nothing was done. The releases of reader cannot be written.",
    )


@pytest.mark.parametrize("body", [{"strategy": "both"}, {"strategies": "auto"}, []])
async def test_a_body_that_is_none_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.post("/reader/update", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "InvalidRequest")


@pytest.mark.parametrize(("method", "route"), [("POST", "update"), ("POST", "revert"), ("GET", "updates")])
async def test_an_unknown_plugin_is_404(client: httpx.AsyncClient, method: str, route: str) -> None:
    assert (await client.request(method, f"/none/{route}")).status_code == 404


async def test_updates_are_listed_the_newest_first(client: httpx.AsyncClient, plugin: Plugin) -> None:
    assert (await client.get("/reader/updates")).json() == []
    await client.post("/reader/update")
    plugin.reject(to_release=ReleaseName("abc", "1.3.0"))
    await client.post("/reader/update")
    listed = (await client.get("/reader/updates")).json()
    assert [(each["id"], each["step"]) for each in listed] == [("u1", "PROPOSED"), ("u0", "REJECTED")]
    assert listed[1]["to_release"] == {"id": "abc", "version": "1.3.0"}
    assert listed[1]["post_mortem"] is None
