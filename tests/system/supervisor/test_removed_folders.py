"""A plugin whose folder was removed leaves the list once nothing is left of its instance; its history stays."""

import asyncio
from typing import Any

import httpx
import pytest
from support.harness import TIMEOUT, Harness, eventually
from support.server_sent import following, take


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.supervisor.fleet._FOLDERS_INTERVAL", 0.02)


async def names(client: httpx.AsyncClient) -> list[str]:
    return [plugin["name"] for plugin in (await client.get("/v1/plugins")).json()]


async def until_names(harness: Harness, *expected: str) -> None:
    found: list[str] = []
    try:
        async with asyncio.timeout(TIMEOUT):
            while (found := await names(harness.client)) != list(expected):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"listed: {found}") from None


async def events(harness: Harness, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await harness.client.get(f"/v1/plugins/{name}/events")).json()
    return found


async def rounds(harness: Harness, monkeypatch: pytest.MonkeyPatch, count: int = 4) -> None:
    """So many looks at the folders."""
    assert harness.app is not None
    loader, looks = harness.app.state.context.fleet._deps.loader, 0
    missing = loader.missing

    def counted(folders: Any) -> Any:
        nonlocal looks
        looks += 1
        return missing(folders)

    monkeypatch.setattr(loader, "missing", counted)
    await eventually(lambda: looks >= count, "the folders are looked at")
    monkeypatch.setattr(loader, "missing", missing)


async def test_one_that_has_an_instance_stays_until_that_ends(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.add("reader", tools={"read": lambda: "text"})
    harness.add("writer")
    client = await harness.open()
    await harness.settled("reader")
    harness.remove("reader")
    await rounds(harness, monkeypatch)
    assert (await harness.run("reader", "read")).status_code == 200
    stopped = (await client.post("/v1/plugins/reader/stop")).json()
    assert (stopped["name"], stopped["reason_code"]) == ("reader", "STOPPED")
    await until_names(harness, "writer")
    assert (await client.get("/v1/plugins/reader/health")).status_code == 404
    assert (await harness.run("reader", "read")).status_code == 404
    assert (await client.post("/v1/plugins/reader/start")).status_code == 404


@pytest.mark.parametrize("end", ["failed", "stopped", "manifest invalid"])
async def test_one_that_has_none_leaves_at_once(harness: Harness, end: str) -> None:
    if end == "manifest invalid":
        harness.write_raw("reader", "version: [")
    else:
        harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    if end == "failed":
        harness.instance("reader").leave(3)
        await harness.until_removed("reader")
    elif end == "stopped":
        await client.post("/v1/plugins/reader/stop")
    assert await names(client) == ["reader"]
    harness.remove("reader")
    await until_names(harness)


async def test_its_history_stays_readable(harness: Harness) -> None:
    """Its last event says what happened; events, runs and post-mortems can be read."""
    harness.add("reader", tools={"read": lambda: "text"})
    client = await harness.open()
    await harness.settled("reader")
    run_id = (await harness.run("reader", "read")).json()["run_id"]
    harness.instance("reader").leave(3)
    await harness.until_removed("reader")
    before = await events(harness, "reader")
    harness.remove("reader")
    await until_names(harness)
    *earlier, last = await events(harness, "reader")
    assert earlier == before
    assert (last["state"], last["previous"], last["reason_code"]) == ("FAILED", "FAILED", "EXITED")
    assert "folder was removed" in last["reason"]
    assert "no longer listed" in last["reason"]
    assert (await client.get("/v1/events")).json()[-1] == last
    assert (await client.get("/v1/plugins/reader/post-mortem")).json()["exit_code"] == 3
    assert (await client.get(f"/v1/runs/{run_id}")).json()["outcome"] == "ok"
    assert [run["run_id"] for run in (await client.get("/v1/runs?plugin=reader")).json()] == [run_id]


async def test_its_history_stays_readable_after_a_restart_of_the_orchestrator(harness: Harness) -> None:
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    await client.post("/v1/plugins/reader/stop")
    harness.remove("reader")
    await until_names(harness)
    before = await events(harness, "reader")
    await harness.shut()
    await harness.open()
    assert await events(harness, "reader") == before
    assert (await harness.client.get("/v1/plugins/nobody/events")).status_code == 404


@pytest.mark.parametrize("through", ["the same orchestrator", "the next one"])
async def test_one_that_comes_back_goes_on_counting(harness: Harness, through: str) -> None:
    """Its generations and its runs."""
    harness.add("reader", tools={"read": lambda: "text"})
    client = await harness.open()
    await harness.settled("reader")
    await harness.run("reader", "read")
    await client.post("/v1/plugins/reader/restart", params={"wait": 5})
    await client.post("/v1/plugins/reader/stop")
    harness.remove("reader")
    await until_names(harness)
    if through == "the next one":
        await harness.shut()
        client = await harness.open()
        assert await names(client) == []
    harness.add("reader", tools={"read": lambda: "text"})
    back = (await client.post("/v1/plugins/reader/start", params={"wait": 5})).json()
    assert (back["generation"], back["success_count"], back["state"]) == (3, 1, "INITIALIZED")
    new = [(e["previous"], e["state"]) for e in await events(harness, "reader") if e["generation"] == 3]
    assert new == [(None, "LOADED"), ("LOADED", "INITIALIZED")]
    assert (await harness.run("reader", "read")).status_code == 200


async def test_streams_of_health_say_so(harness: Harness) -> None:
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    await client.post("/v1/plugins/reader/stop")
    async with following(client, include="health") as frames:
        await take(frames, 1)
        harness.remove("reader")
        seen = await take(frames, 2)
    assert [frame.kind for frame in seen] == ["lifecycle", "removed"]
    assert (seen[1].data["name"], seen[1].data["state"]) == ("reader", "UNAVAILABLE")


async def test_one_whose_folder_is_replaced_stays(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor or a checkout removes it for a moment."""
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    await client.post("/v1/plugins/reader/stop")
    folder, away = harness.plugins / "reader", harness.plugins.with_name("away")
    missing, looks = harness.app.state.context.fleet._deps.loader.missing, []  # type: ignore[union-attr]

    def once(folders: Any) -> Any:
        folder.rename(away)
        try:
            assert not folders or not (folders["reader"] / "plugin.yaml").exists()
            looks.append(missing(folders))
        finally:
            away.rename(folder)
        return looks[-1] if len(looks) % 2 else set()

    monkeypatch.setattr(harness.app.state.context.fleet._deps.loader, "missing", once)  # type: ignore[union-attr]
    await eventually(lambda: len(looks) >= 6, "it is looked at")
    assert {"reader"} in looks
    assert await names(client) == ["reader"]


async def test_one_whose_folder_was_moved_stays(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name counts."""
    harness.add("reader")
    manifest = harness.plugins / "reader" / "plugin.yaml"
    manifest.write_text(f"{manifest.read_text()}name: reader\n")
    client = await harness.open()
    await harness.settled("reader")
    await client.post("/v1/plugins/reader/stop")
    (harness.plugins / "reader").rename(harness.plugins / "elsewhere")
    await rounds(harness, monkeypatch)
    assert (await client.post("/v1/plugins/reader/start", params={"wait": 5})).json()["state"] == "INITIALIZED"


async def test_all_stay_where_the_directory_of_plugins_is_missing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a file system that is not mounted."""
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    await client.post("/v1/plugins/reader/stop")
    harness.plugins.rename(harness.plugins.with_name("away"))
    await rounds(harness, monkeypatch)
    assert await names(client) == ["reader"]


async def test_one_whose_container_could_not_be_removed_stays(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its health is where an operator reads of that."""
    harness.add("reader")
    client = await harness.open()
    await harness.settled("reader")
    harness.engine.refuse = {"remove": "no"}
    await client.post("/v1/plugins/reader/stop")
    harness.remove("reader")
    await rounds(harness, monkeypatch)
    assert await names(client) == ["reader"]
    harness.engine.refuse = {}
    harness.engine.break_streams()  # after which removals are tried again
    await until_names(harness)
