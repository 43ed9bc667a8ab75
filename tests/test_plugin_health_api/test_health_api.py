"""The health routes: 200 or 404, at once, whatever else happens."""

import asyncio
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from support.harness import Harness

FIELDS = {
    "name", "state", "description", "version", "reason", "reason_code", "uptime_seconds", "last_used", "success_count",
    "error_count", "last_execution_time_ms", "avg_execution_time_ms", "in_flight", "queued", "generation",
    "observed_at", "stale", "checks", "container", "gpus", "limits", "activity", "restart", "replicas", "degraded",
    "degraded_reason", "instances", "candidate", "parked_since", "start_estimate_seconds", "host",
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


async def test_the_list_is_flat_and_holds_every_plugin(harness: Harness) -> None:
    """Well, failed, unavailable or with a bad manifest: each is an object of it, in the order of names."""
    harness.add("well")
    harness.add("failed", start=IMPORT_ERROR)
    harness.add("unavailable", models={"weights": "nowhere.pt"})
    harness.write_raw("misspelt", "version: 1.0.0\ndescription: x\nentrypoint: a.b:C\nrequires_gpus: true\n")
    client = await harness.open()
    for name in ("well", "failed", "unavailable", "misspelt"):
        await harness.settled(name)
    answer = await client.get("/v1/plugins")
    assert answer.status_code == 200
    assert [(p["name"], p["state"], p["reason_code"]) for p in answer.json()] == [
        ("failed", "FAILED", "IMPORT_ERROR"),
        ("misspelt", "FAILED", "MANIFEST_INVALID"),
        ("unavailable", "UNAVAILABLE", "MODEL_MISSING"),
        ("well", "INITIALIZED", None),
    ]


async def test_no_plugins_are_an_empty_list(harness: Harness) -> None:
    """Nothing to list is no error."""
    client = await harness.open()
    answer = await client.get("/v1/plugins")
    assert (answer.status_code, answer.json()) == (200, [])


async def test_every_field_of_the_contract_is_there_for_every_plugin(harness: Harness) -> None:
    """In the list and alone, whatever the state; a plugin's own route adds the post-mortem."""
    harness.add("well", models={"m": "m.bin"}, files={"m.bin": b"0123456789abcdef"}, tools={"read": lambda: 1})
    harness.add("failed", start=IMPORT_ERROR)
    harness.write_raw("bad", "hello")
    client = await harness.open()
    await harness.settled("well")
    await harness.run("well", "read")
    await harness.until_removed("failed")
    for plugin in (await client.get("/v1/plugins")).json():
        assert set(plugin) == FIELDS
        assert set(await harness.health(plugin["name"])) == FIELDS | {"post_mortem"}


async def test_every_key_is_snake_case(harness: Harness) -> None:
    """Down to the innermost."""
    harness.add("well", models={"m": "m.bin"}, files={"m.bin": b"0123456789abcdef"})
    harness.add("failed", start=IMPORT_ERROR)
    client = await harness.open()
    await harness.settled("well")
    health = await harness.until_removed("failed")
    odd = [
        key
        for key in keys_of([health, (await client.get("/v1/plugins")).json()])
        if not re.fullmatch(r"[a-z0-9_]+", key)
    ]
    assert odd == []


async def test_every_time_has_its_zone(harness: Harness) -> None:
    """ISO 8601; a time without a zone would be anybody's guess."""
    harness.add("reader", tools={"read": lambda: 1})
    client = await harness.open()
    await harness.settled("reader")
    await harness.run("reader", "read")
    await client.post("/v1/plugins/reader/stop")
    health = await harness.until_removed("reader")
    events = (await client.get("/v1/plugins/reader/events")).json()
    times = [
        health["observed_at"],
        health["last_used"],
        health["post_mortem"]["ended_at"],
        *(e["time"] for e in events),
    ]
    assert all(datetime.fromisoformat(text).tzinfo is not None for text in times)


async def test_types_are_what_the_contract_says(harness: Harness) -> None:
    """Null where nothing is known, numbers where something is."""
    harness.add("reader", tools={"read": lambda: 1})
    await harness.open()
    before = await harness.settled("reader")
    await harness.run("reader", "read")
    after = await harness.health("reader")
    assert [
        before[f] for f in ("last_used", "last_execution_time_ms", "avg_execution_time_ms", "reason", "post_mortem")
    ] == [None] * 5
    assert (before["success_count"], before["generation"], before["stale"], before["gpus"]) == (0, 1, False, [])
    assert isinstance(before["uptime_seconds"], float)
    assert isinstance(after["last_execution_time_ms"], float)
    assert after["limits"]["timeout_seconds"] == 60
    assert after["limits"]["memory_bytes"] == 1 << 30


async def test_a_bad_manifest_is_seen_with_file_field_and_expectation(harness: Harness) -> None:
    """It is listed without version and description; a run on it is refused with the reason."""
    harness.write_raw("misspelt", "version: 1.0.0\ndescription: x\nentrypoint: a.b:C\nlimits: {tiemout: 5s}\n")
    await harness.open()
    health = await harness.health("misspelt")
    answer = await harness.run("misspelt", "read")
    assert (health["state"], health["reason_code"]) == ("FAILED", "MANIFEST_INVALID")
    assert "misspelt/plugin.yaml" in health["reason"]
    assert "limits.tiemout: unknown field" in health["reason"]
    assert (answer.status_code, answer.json()["reason_code"]) == (503, "MANIFEST_INVALID")


async def test_a_mended_manifest_counts_at_the_next_restart(harness: Harness) -> None:
    """And one that was broken since is refused at the next: the plugin serves on."""
    harness.write_raw("reader", "version: [")
    client = await harness.open()
    await harness.until_state("reader", "FAILED")
    harness.add("reader", tools={"read": lambda: 1})
    repaired = (await client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()
    harness.write_raw("reader", "version: [")
    broken = await client.post("/v1/plugins/reader/restart", params={"wait": 5})
    assert (repaired["state"], repaired["version"]) == ("INITIALIZED", "1.0.0")
    assert (broken.status_code, broken.json()["reason_code"]) == (409, "MANIFEST_INVALID")
    health = await harness.health("reader")
    assert (health["state"], health["generation"], health["restart"]["state"]) == ("INITIALIZED", 2, "refused")
    assert len(await harness.containers("reader")) == 1


ODD_NAMES = [
    "nobody", "Reader", "reader%20", "%00", "%0a", "..%2f..%2fetc%2fpasswd", "%F0%9F%90%8D", "%FF", "a" * 3000, "'--",
    "%3Cb%3E", "{name}", "%25s", "null", "0", "-", "reader%2Fhealth", "%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=[name[:20] for name in ODD_NAMES])
async def test_a_name_that_is_no_plugins_is_404(harness: Harness, name: str) -> None:
    """Whatever stands in the route: 404, in the envelope, never an error of ours."""
    harness.add("reader")
    client = await harness.open()
    answer = await client.get(f"/v1/plugins/{name}/health")
    assert answer.status_code == 404
    assert answer.json()["ok"] is False
    assert answer.json()["error"]


@pytest.mark.parametrize("query", ["?x=1", "?wait=abc", "?tail=-1", "?%FF=%00"])
async def test_nothing_in_the_query_matters(harness: Harness, query: str) -> None:
    """The health routes take no parameters, so none can be wrong."""
    harness.add("reader")
    client = await harness.open()
    assert (await client.get(f"/v1/plugins{query}")).status_code == 200
    assert (await client.get(f"/v1/plugins/reader/health{query}")).status_code == 200


async def test_health_is_answered_while_a_tool_runs(harness: Harness) -> None:
    """With the run that is in flight and those that wait."""
    go_on = asyncio.Event()
    harness.add("reader", tools={"read": go_on.wait})
    await harness.open()
    await harness.settled("reader")
    runs = [asyncio.create_task(harness.run("reader", "read")) for _ in range(3)]
    health = await harness.until("reader", lambda health: health["queued"] == 2)
    go_on.set()
    assert (health["state"], health["in_flight"]) == ("RUNNING", 1)
    assert {(await run).status_code for run in runs} == {200}
    after = await harness.health("reader")
    assert (after["state"], after["in_flight"], after["queued"]) == ("RUNNING", 0, 0)


async def test_health_reveals_nothing_confidential(harness: Harness) -> None:
    """Neither a path of the host nor a fixed variable's value."""
    harness.add("failed", models={"weights": "nowhere.pt"}, env={"TOKEN": "s3cr3t"})
    harness.add("well", env={"TOKEN": "s3cr3t"})
    harness.write_raw("bad", "version: [")
    client = await harness.open()
    await harness.settled("well")
    await harness.settled("failed")
    texts = [(await client.get("/v1/plugins")).text]
    texts += [(await client.get(f"/v1/plugins/{name}/health")).text for name in ("failed", "well", "bad")]
    for text in texts:
        assert str(harness.plugins) not in text
        assert str(harness.run_dir) not in text
        assert "s3cr3t" not in text


async def test_readiness_is_when_every_plugin_has_come_to_a_verdict(harness: Harness) -> None:
    """/healthz from the first moment, /readyz once no plugin is in its first start."""
    runtime = harness.add("slow", start=[])
    harness.add("failed", start=IMPORT_ERROR)
    client = await harness.open()
    await harness.settled("failed")
    waiting = await client.get("/readyz")
    assert (await client.get("/healthz")).status_code == 200
    assert (waiting.status_code, waiting.json()["waiting_for"]) == (503, ["slow"])
    await harness.until("slow", lambda _: bool(runtime.instances))
    harness.instance("slow").set_status(phase="ready")
    await harness.settled("slow")
    assert (await client.get("/readyz")).status_code == 200


async def test_head_is_answered_as_get_without_its_body(harness: Harness) -> None:
    """Monitors use it."""
    harness.add("well")
    client = await harness.open()
    for path, status in (("/v1/plugins", 200), ("/v1/plugins/well/health", 200), ("/v1/plugins/none/health", 404)):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["content-type"] == "application/json"


async def test_what_a_route_cannot_answer_says_so_in_the_envelope(harness: Harness) -> None:
    """Also a defect of the orchestrator's own, of which the caller learns nothing but that."""
    client = await harness.open()
    assert harness.app is not None

    @harness.app.get("/defect")
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


async def test_a_defect_on_the_way_of_a_hot_route_is_answered_too(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its way passes none of the framework's layers, whose answer to a defect is the same."""
    client = await harness.open()

    def defect(_: str) -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as patched:
        patched.setattr(harness.registry, "get", defect)
        answer = await client.post("/v1/plugins/reader/tools/read/run", json={})
    assert (answer.status_code, answer.json()["error_type"]) == (500, "InternalError")
    assert "secret" not in answer.text
    assert (await client.get("/v1/plugins")).status_code == 200


async def test_the_description_of_the_api_needs_no_internet(harness: Harness) -> None:
    """What /docs loads comes from here."""
    await harness.open()
    page = (await harness.client.get("/docs")).text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 2
    for path in loaded:
        assert path.startswith("/docs-assets/")
        assert (await harness.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "error_type", "sentence"),
    [
        (b'{"replicas": 3', 400, "BadRequest", "The body is no JSON: Expecting ',' delimiter at character 14."),
        (b'{"replicas": "\xff"}', 400, "BadRequest", "The body is no JSON: it is not UTF-8 at character 14."),
        (b"[" * 100_000, 400, "BadRequest", "The body is no JSON: it is nested too deeply at character 0."),
        (b'{"replicas": 2, "replicas": 3}', 422, "InvalidRequest", "'replicas' stands twice in one object"),
        (b'{"replicas": {"a": [{"b": 1, "b": 1}]}}', 422, "InvalidRequest", "'b' stands twice in one object"),
        (b"", 422, "InvalidRequest", "the body is missing"),
        (b"{}", 422, "InvalidRequest", "replicas is missing"),
        (b'{"replicas": "3"}', 422, "InvalidRequest", "replicas: expected a whole number, not '3'"),
        (b'{"replicas": 1.5}', 422, "InvalidRequest", "replicas: expected a whole number, not '1.5'"),
        (b'{"replicas": 0}', 422, "InvalidRequest", "replicas: expected 1 or more, not '0'"),
        (b'{"replicas": 65}', 422, "InvalidRequest", "replicas: expected 64 or less, not '65'"),
        (b'{"replicas": 2, "instances": 3}', 422, "InvalidRequest", "instances: unknown field"),
        (b"[3]", 422, "InvalidRequest", "the body: expected a JSON object, sent as application/json, not '[3]'"),
    ],
)
async def test_a_command_s_body_is_refused_in_our_words(
    harness: Harness, body: bytes, status: int, error_type: str, sentence: str
) -> None:
    """Which field, and what was expected."""
    client = await harness.open()
    answer = await client.post("/v1/plugins/x/scale", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
    assert answer.json()["error"] == sentence
