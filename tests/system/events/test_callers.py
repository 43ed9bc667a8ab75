"""Events name the key whose run or command they come of, to those who may know it."""

from typing import Any

import httpx
from support.harness import Harness
from support.server_sent import following, take

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import Grant, Right


def keys(harness: Harness) -> dict[str, dict[str, str]]:
    store = KeyStore(harness.settings.state_dir)
    grants = {
        "root": Role.OPERATOR,
        "eyes": Role.VIEWER,
        "ci": Grant(frozenset({Right.RUN})),
        "web": Grant(frozenset({Right.RUN}), ("rea*",)),
    }
    return {name: {"Authorization": f"Bearer {store.add(name, grant)}"} for name, grant in grants.items()}


async def told(client: httpx.AsyncClient, headers: dict[str, str]) -> list[tuple[str, str | None, str | None]]:
    answer = await client.get("/v1/plugins/reader/events", headers=headers)
    return [(event["state"], event["reason_code"], event["caller"]) for event in answer.json()]


async def test_runs_and_commands_are_named(harness: Harness) -> None:
    harness.add("reader", tools={"read": lambda: 1, "fall": lambda: 1 / 0})
    headers = keys(harness)
    client = await harness.open()
    client.headers.update(headers["root"])
    await harness.settled("reader")
    path = "/v1/plugins/reader"
    await client.post(f"{path}/tools/read/run", json={}, headers=headers["ci"])
    await client.post(f"{path}/tools/fall/run", json={}, headers=headers["web"])
    for action in ("restart", "park", "start", "stop"):
        answer = await client.post(f"{path}/{action}", params={"wait": 10})
        assert answer.status_code == 200, answer.text
    expected = [
        ("LOADED", None, None),
        ("INITIALIZED", None, None),
        ("RUNNING", None, "ci"),
        ("FAILED", "TOOL_ERROR", "web"),
        ("LOADED", None, "root"),
        ("INITIALIZED", None, None),
        ("UNAVAILABLE", "PARKED", "root"),
        ("LOADED", None, "root"),
        ("INITIALIZED", None, None),
        ("UNAVAILABLE", "STOPPED", "root"),
    ]
    assert await told(client, headers["root"]) == await told(client, headers["eyes"]) == expected
    for name in ("ci", "web"):  # who sees only its own runs learns no other name
        assert await told(client, headers[name]) == [(*each, who if who == name else None) for *each, who in expected]
    await harness.shut()
    client = await harness.open()
    assert (await told(client, headers["root"]))[: len(expected)] == expected, "from the history too"


async def test_a_stream_names_them_as_a_list_does(harness: Harness) -> None:
    harness.add("reader", tools={"read": lambda: 1})
    headers = keys(harness)
    client = await harness.open()
    client.headers.update(headers["root"])
    await harness.settled("reader")
    seen: dict[str, Any] = {}
    for name in ("root", "ci", "web"):
        async with (
            httpx.AsyncClient(base_url=client.base_url, headers=headers[name], trust_env=False) as reader,
            following(reader, "/v1/events", after=0) as stream,
        ):
            if not seen:
                await client.post("/v1/plugins/reader/tools/read/run", json={}, headers=headers["ci"])
            frames = await take(stream, 3)
            seen[name] = [(frame.data["state"], frame.data["caller"]) for frame in frames]
    assert seen["root"] == seen["ci"] == [("LOADED", None), ("INITIALIZED", None), ("RUNNING", "ci")]
    assert seen["web"][2] == ("RUNNING", None)


async def test_an_update_names_who_began_it(harness: Harness) -> None:
    harness.add("reader", tools={"read": lambda: 1})
    headers = keys(harness)
    client = await harness.open()
    client.headers.update(headers["root"])
    await harness.settled("reader")
    harness.write("reader", image="harness/reader", version="2.0.0", update={"observe": "10ms"})
    await client.post("/v1/plugins/reader/update", params={"wait": 20})
    after = (await told(client, headers["root"]))[2:]
    assert {who for state, _, who in after if state == "LOADED"} == {"root"}
    assert "root" in {who for _, _, who in after}
