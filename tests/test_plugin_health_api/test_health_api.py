"""The health routes: 200 or 404, at once, whatever else happens."""

import asyncio
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from support.house import House

FIELDS = {
    "name", "state", "description", "version", "reason", "reason_code", "uptime_seconds", "last_used", "success_count",
    "error_count", "last_execution_time_ms", "avg_execution_time_ms", "in_flight", "queued", "generation",
    "observed_at", "stale", "checks", "container", "gpus", "limits",
}  # fmt: skip
IMPORT_ERROR = [(0.0, {"phase": "failed", "reason_code": "IMPORT_ERROR", "reason": "No module named 'x'."})]


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


async def test_the_list_is_flat_and_holds_every_plugin(house: House) -> None:
    """Well, failed, unavailable or with a bad manifest: each is an object of it, in the order of names."""
    house.add("well")
    house.add("failed", start=IMPORT_ERROR)
    house.add("unavailable", models={"weights": "nowhere.pt"})
    house.write_raw("misspelt", "version: 1.0.0\ndescription: x\nentrypoint: a.b:C\nrequires_gpus: true\n")
    client = await house.open()
    for name in ("well", "failed", "unavailable", "misspelt"):
        await house.settled(name)
    answer = await client.get("/v1/plugins")
    assert answer.status_code == 200
    assert [(p["name"], p["state"], p["reason_code"]) for p in answer.json()] == [
        ("failed", "FAILED", "IMPORT_ERROR"),
        ("misspelt", "FAILED", "MANIFEST_INVALID"),
        ("unavailable", "UNAVAILABLE", "MODEL_MISSING"),
        ("well", "INITIALIZED", None),
    ]


async def test_no_plugins_are_an_empty_list(house: House) -> None:
    """Nothing to list is no error."""
    client = await house.open()
    answer = await client.get("/v1/plugins")
    assert (answer.status_code, answer.json()) == (200, [])


async def test_every_field_of_the_contract_is_there_for_every_plugin(house: House) -> None:
    """In the list and alone, whatever the state; a plugin's own route adds the post-mortem."""
    house.add("well", models={"m": "m.bin"}, files={"m.bin": b"0123456789abcdef"}, tools={"read": lambda: 1})
    house.add("failed", start=IMPORT_ERROR)
    house.write_raw("bad", "hello")
    client = await house.open()
    await house.settled("well")
    await house.run("well", "read")
    await house.until_removed("failed")
    for plugin in (await client.get("/v1/plugins")).json():
        assert set(plugin) == FIELDS
        assert set(await house.health(plugin["name"])) == FIELDS | {"post_mortem"}


async def test_every_key_is_snake_case(house: House) -> None:
    """Down to the innermost."""
    house.add("well", models={"m": "m.bin"}, files={"m.bin": b"0123456789abcdef"})
    house.add("failed", start=IMPORT_ERROR)
    client = await house.open()
    await house.settled("well")
    health = await house.until_removed("failed")
    odd = [
        key
        for key in keys_of([health, (await client.get("/v1/plugins")).json()])
        if not re.fullmatch(r"[a-z0-9_]+", key)
    ]
    assert odd == []


async def test_every_time_has_its_zone(house: House) -> None:
    """ISO 8601; a time without a zone would be anybody's guess."""
    house.add("reader", tools={"read": lambda: 1})
    client = await house.open()
    await house.settled("reader")
    await house.run("reader", "read")
    await client.post("/v1/plugins/reader/stop")
    health = await house.until_removed("reader")
    events = (await client.get("/v1/plugins/reader/events")).json()
    times = [
        health["observed_at"],
        health["last_used"],
        health["post_mortem"]["ended_at"],
        *(e["time"] for e in events),
    ]
    assert all(datetime.fromisoformat(text).tzinfo is not None for text in times)


async def test_types_are_what_the_contract_says(house: House) -> None:
    """Null where nothing is known, numbers where something is."""
    house.add("reader", tools={"read": lambda: 1})
    await house.open()
    before = await house.settled("reader")
    await house.run("reader", "read")
    after = await house.health("reader")
    assert [
        before[f] for f in ("last_used", "last_execution_time_ms", "avg_execution_time_ms", "reason", "post_mortem")
    ] == [None] * 5
    assert (before["success_count"], before["generation"], before["stale"], before["gpus"]) == (0, 1, False, [])
    assert isinstance(before["uptime_seconds"], float)
    assert isinstance(after["last_execution_time_ms"], float)
    assert after["limits"]["timeout_seconds"] == 60
    assert after["limits"]["memory_bytes"] == 1 << 30


async def test_a_bad_manifest_is_seen_with_file_field_and_expectation(house: House) -> None:
    """It is listed without version and description; a run on it is refused with the reason."""
    house.write_raw("misspelt", "version: 1.0.0\ndescription: x\nentrypoint: a.b:C\nlimits: {tiemout: 5s}\n")
    await house.open()
    health = await house.health("misspelt")
    answer = await house.run("misspelt", "read")
    assert (health["state"], health["reason_code"]) == ("FAILED", "MANIFEST_INVALID")
    assert "misspelt/plugin.yaml" in health["reason"]
    assert "limits.tiemout: unknown field" in health["reason"]
    assert (answer.status_code, answer.json()["reason_code"]) == (503, "MANIFEST_INVALID")


async def test_a_mended_manifest_counts_at_the_next_restart(house: House) -> None:
    """And one that was broken since makes the plugin FAILED at the next."""
    house.write_raw("reader", "version: [")
    client = await house.open()
    await house.until_state("reader", "FAILED")
    house.add("reader", tools={"read": lambda: 1})
    repaired = (await client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    house.write_raw("reader", "version: [")
    broken = (await client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    assert (repaired["state"], repaired["version"]) == ("INITIALIZED", "1.0.0")
    assert (broken["state"], broken["reason_code"], broken["generation"]) == ("FAILED", "MANIFEST_INVALID", 3)
    assert await house.containers("reader") == []


ODD_NAMES = [
    "nobody", "Reader", "reader%20", "%00", "%0a", "..%2f..%2fetc%2fpasswd", "%F0%9F%90%8D", "%FF", "a" * 3000, "'--",
    "%3Cb%3E", "{name}", "%25s", "null", "0", "-", "reader%2Fhealth", "%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=[name[:20] for name in ODD_NAMES])
async def test_a_name_that_is_no_plugins_is_404(house: House, name: str) -> None:
    """Whatever stands in the route: 404, in the envelope, never an error of ours."""
    house.add("reader")
    client = await house.open()
    answer = await client.get(f"/v1/plugins/{name}/health")
    assert answer.status_code == 404
    assert answer.json()["ok"] is False
    assert answer.json()["error"]


@pytest.mark.parametrize("query", ["?x=1", "?wait=abc", "?tail=-1", "?%FF=%00"])
async def test_nothing_in_the_query_matters(house: House, query: str) -> None:
    """The health routes take no parameters, so none can be wrong."""
    house.add("reader")
    client = await house.open()
    assert (await client.get(f"/v1/plugins{query}")).status_code == 200
    assert (await client.get(f"/v1/plugins/reader/health{query}")).status_code == 200


async def test_health_is_answered_while_a_tool_runs(house: House) -> None:
    """With the run that is in flight and those that wait."""
    go_on = asyncio.Event()
    house.add("reader", tools={"read": go_on.wait})
    await house.open()
    await house.settled("reader")
    runs = [asyncio.create_task(house.run("reader", "read")) for _ in range(3)]
    health = await house.until("reader", lambda health: health["queued"] == 2)
    go_on.set()
    assert (health["state"], health["in_flight"]) == ("RUNNING", 1)
    assert {(await run).status_code for run in runs} == {200}
    after = await house.health("reader")
    assert (after["state"], after["in_flight"], after["queued"]) == ("RUNNING", 0, 0)


async def test_health_reveals_nothing_confidential(house: House) -> None:
    """Neither a path of the host nor a fixed variable's value."""
    house.add("failed", models={"weights": "nowhere.pt"}, env={"TOKEN": "s3cr3t"})
    house.add("well", env={"TOKEN": "s3cr3t"})
    house.write_raw("bad", "version: [")
    client = await house.open()
    await house.settled("well")
    await house.settled("failed")
    texts = [(await client.get("/v1/plugins")).text]
    texts += [(await client.get(f"/v1/plugins/{name}/health")).text for name in ("failed", "well", "bad")]
    for text in texts:
        assert str(house.plugins) not in text
        assert str(house.run_dir) not in text
        assert "s3cr3t" not in text


async def test_readiness_is_when_every_plugin_has_come_to_a_verdict(house: House) -> None:
    """/healthz from the first moment, /readyz once no plugin is in its first start."""
    runtime = house.add("slow", start=[])
    house.add("failed", start=IMPORT_ERROR)
    client = await house.open()
    await house.settled("failed")
    waiting = await client.get("/readyz")
    assert (await client.get("/healthz")).status_code == 200
    assert (waiting.status_code, waiting.json()["waiting_for"]) == (503, ["slow"])
    await house.until("slow", lambda _: bool(runtime.instances))
    house.instance("slow").set_status(phase="ready")
    await house.settled("slow")
    assert (await client.get("/readyz")).status_code == 200


async def test_head_is_answered_as_get_without_its_body(house: House) -> None:
    """Monitors use it."""
    house.add("well")
    client = await house.open()
    for path, status in (("/v1/plugins", 200), ("/v1/plugins/well/health", 200), ("/v1/plugins/none/health", 404)):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["content-type"] == "application/json"


async def test_what_a_route_cannot_answer_says_so_in_the_envelope(house: House) -> None:
    """Also a defect of the orchestrator's own, of which the caller learns nothing but that."""
    client = await house.open()
    assert house.app is not None

    @house.app.get("/defect")
    async def defect() -> None:
        raise RuntimeError("secret")

    name = "n" * 3000
    for method, path, status, error_type in (
        ("GET", "/v1/nothing", 404, "UnknownRoute"),
        ("DELETE", "/v1/plugins", 405, "MethodNotAllowed"),
        ("GET", f"/v1/plugins/{name}/health", 404, "UnknownPlugin"),
        ("GET", "/v1/plugins/x/logs?tail=0", 422, "InvalidRequest"),
        ("GET", "/defect", 500, "InternalError"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error_type"], answer.json()["ok"]) == (status, error_type, False)
        assert answer.json()["source"] == "orchestrator"
        assert "secret" not in answer.text and len(answer.text) < 600


async def test_the_description_of_the_api_needs_no_internet(house: House) -> None:
    """What /docs loads comes from here."""
    await house.open()
    page = (await house.client.get("/docs")).text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 2
    for path in loaded:
        assert path.startswith("/docs-assets/")
        assert (await house.client.get(path)).status_code == 200
