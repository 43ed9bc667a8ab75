"""What each key may do: every route with every right, and a key for some plugins learns nothing of others."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route
from support.gpus import FakeGpus, device
from support.harness import Harness

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import ALL_RIGHTS, Grant, Right

NONE = None
READ, RUN, OPERATE = Right
RIGHTS = {
    "GET /": NONE,
    "GET /assets/x.js": NONE,
    "GET /docs": NONE,
    "GET /docs-assets/x.js": NONE,
    "GET /docs/oauth2-redirect": READ,
    "GET /healthz": NONE,
    "GET /openapi.json": NONE,
    "GET /readyz": NONE,
    "GET /metrics": READ,
    "GET /v1/caller": READ,
    "GET /v1/events": READ,
    "GET /v1/gpus": READ,
    "POST /v1/gpus/{uuid}/release": OPERATE,
    "GET /v1/host": READ,
    "POST /v1/host/drain": OPERATE,
    "POST /v1/host/resume": OPERATE,
    "GET /v1/plugins": READ,
    "GET /v1/plugins/{name}/events": READ,
    "POST /v1/plugins/{name}/hand-over": OPERATE,
    "GET /v1/plugins/{name}/health": READ,
    "GET /v1/plugins/{name}/logs": READ,
    "POST /v1/plugins/{name}/park": OPERATE,
    "GET /v1/plugins/{name}/placement": READ,
    "GET /v1/plugins/{name}/post-mortem": READ,
    "GET /v1/plugins/{name}/releases": READ,
    "POST /v1/plugins/{name}/restart": OPERATE,
    "POST /v1/plugins/{name}/revert": OPERATE,
    "POST /v1/plugins/{name}/scale": OPERATE,
    "POST /v1/plugins/{name}/start": OPERATE,
    "POST /v1/plugins/{name}/stop": OPERATE,
    "POST /v1/plugins/{name}/take-over": OPERATE,
    "GET /v1/plugins/{name}/tools": READ,
    "POST /v1/plugins/{name}/tools/{tool}/run": RUN,
    "POST /v1/plugins/{name}/update": OPERATE,
    "GET /v1/plugins/{name}/updates": READ,
    "GET /v1/runs": READ,
    "DELETE /v1/runs/{run_id}": RUN,
    "GET /v1/runs/{run_id}": READ,
    "GET /v1/runs/{run_id}/files/{name}": READ,
    "GET /v1/runs/{run_id}/result": READ,
    "GET /v1/webhooks": OPERATE,
    "GET /v1/webhooks/{webhook}/deliveries": OPERATE,
    "POST /v1/webhooks/{webhook}/deliveries/{delivery_id}/repeat": OPERATE,
    "POST /v1/webhooks/{webhook}/test": OPERATE,
}
"""Every route of the orchestrator, and what it needs; None: no key. A new route needs a row."""
GRANTS = {
    "read": frozenset({READ}),
    "run": frozenset({RUN}),
    "operate": frozenset({OPERATE}),
    "all": ALL_RIGHTS,
}
HIDDEN, SEEN = "zebra", "det-a"
VALUES = {"name": SEEN, "tool": "read", "run_id": "0" * 32, "uuid": "GPU-none", "webhook": "pager",
          "delivery_id": "dlv_none"}  # fmt: skip


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes(found: Iterable[BaseRoute]) -> Iterator[str]:
    for route in found:
        if isinstance(route, Mount):
            yield f"GET {route.path}/x.js"
        elif isinstance(route, Route):
            yield from (f"{method} {route.path}" for method in (route.methods or ()) if method != "HEAD")
        else:
            yield from routes(route.original_router.routes)  # type: ignore[attr-defined]  # FastAPI's, of a router


def path_of(template: str, **values: str) -> str:
    return template.format(**{**VALUES, **values})


async def opened(harness: Harness) -> httpx.AsyncClient:
    """`det-a` and `det-gpu` beside `zebra`, which holds the only GPU and has been called."""
    harness.gpus = FakeGpus(device(0))
    harness.engine.device_drivers = ("nvidia",)
    harness.add(HIDDEN, tools={"read": lambda: 1}, requires_gpu=True, idle={"keep": True})
    harness.add(SEEN, tools={"read": lambda: 1})
    KeyStore(harness.settings.state_dir).add("root", Role.OPERATOR)
    return await harness.open()


def key(harness: Harness, name: str, grant: Grant | Role) -> str:
    return KeyStore(harness.settings.state_dir).add(name, grant)


async def settled(client: httpx.AsyncClient, root: str, *names: str) -> None:
    async with asyncio.timeout(20):
        for name in names:
            while (await client.get(f"/v1/plugins/{name}/health", headers=bearer(root))).json()["state"] == "LOADED":
                await asyncio.sleep(0.01)


async def test_every_route_has_a_row(harness: Harness) -> None:
    """Whoever adds one decides what it needs."""
    await harness.open()
    assert harness.app is not None
    assert set(routes(harness.app.routes)) - set(RIGHTS) == set()


@pytest.mark.parametrize("rights", GRANTS)
async def test_each_right_opens_its_routes_and_no_other(harness: Harness, rights: str) -> None:
    """With GET also HEAD. A route that the key may not call is 403, whatever it is called with; without a key 401."""
    harness.add(SEEN, tools={"read": lambda: 1})
    text = key(harness, "caller", Grant(GRANTS[rights]))
    client = await harness.open()
    for row, needed in RIGHTS.items():
        method, template = row.split()
        may = needed is None or needed in Grant(GRANTS[rights]).rights
        for each in ("GET", "HEAD") if method == "GET" else (method,):
            for path in (path_of(template), path_of(template, name="none-such")):
                answer = await client.request(each, path, headers=bearer(text), params={"tail": "1"})
                assert (answer.status_code == 403) is not may, (each, path, answer.status_code)
                if not may and each != "HEAD":
                    assert answer.json()["error_type"] == "RoleTooSmall" and str(needed) in answer.json()["error"]
                without = await client.request(each, path)
                assert (without.status_code == 401) is (needed is not None), (each, path)


async def test_a_key_for_some_plugins_learns_nothing_of_others(harness: Harness) -> None:
    """On no route, by no method: neither the name of another plugin, nor that there is one."""
    harness.add("det-gpu", tools={"read": lambda: 1}, requires_gpu=True)
    client = await opened(harness)
    root, scoped = key(harness, "all", Role.OPERATOR), key(harness, "det", Grant(ALL_RIGHTS, ("det-*",)))
    reader = key(harness, "eyes", Grant(frozenset({READ}), ("det-*",)))
    await settled(client, root, HIDDEN, SEEN, "det-gpu")
    # Whichever of the two has not got the GPU must not say which one has it.
    await client.post("/v1/plugins/det-gpu/stop", headers=bearer(root))
    await client.post(f"/v1/plugins/{HIDDEN}/restart", params={"wait": 10}, headers=bearer(root))
    await client.post("/v1/plugins/det-gpu/start", params={"wait": 10}, headers=bearer(root))
    hidden_run = await client.post(f"/v1/plugins/{HIDDEN}/tools/read/run", json={}, headers=bearer(root))
    own_run = await client.post(f"/v1/plugins/{SEEN}/tools/read/run", json={}, headers=bearer(scoped))
    assert (hidden_run.status_code, own_run.status_code) == (200, 200)
    reasons = {
        text: (await client.get("/v1/plugins/det-gpu/health", headers=bearer(text))).json()["reason"]
        for text in (root, scoped, reader)
    }
    assert HIDDEN in reasons[root], "the test needs a sentence that names another plugin"
    assert reasons[scoped] == reasons[reader] and "another plugin" in reasons[scoped]
    ids = {"hidden": hidden_run.json()["run_id"], "own": own_run.json()["run_id"]}
    for text in (scoped, reader):
        for row, needed in RIGHTS.items():
            method, template = row.split()
            if method != "GET" and (text == reader or needed is OPERATE):
                continue
            for name in (SEEN, "det-gpu", HIDDEN):
                for run_id in ids.values() if "{run_id}" in template else ("",):
                    path = path_of(template, name=name, run_id=run_id)
                    answer = await client.request(method, path, headers=bearer(text))
                    shown = f"{answer.headers} {answer.text}".replace(f"'{HIDDEN}'", "").replace(f'"{HIDDEN}"', "")
                    if name == HIDDEN and "{name}" in template and "{run_id}" not in template:
                        # What it was called with comes back, as for a name that there is not.
                        assert answer.status_code == 404
                        none = await client.request(method, path.replace(HIDDEN, "nosuch"), headers=bearer(text))
                        assert answer.text.replace(HIDDEN, "nosuch") == none.text
                        assert {**answer.headers, "content-length": "", "date": ""} == {
                            **none.headers, "content-length": "", "date": ""}  # fmt: skip
                    assert HIDDEN not in shown, (method, path)
                    if run_id == ids["hidden"]:
                        assert answer.status_code == 404, path
        assert {each["name"] for each in (await client.get("/v1/plugins", headers=bearer(text))).json()} == {
            SEEN, "det-gpu"}  # fmt: skip
        assert {each["plugin"] for each in (await client.get("/v1/runs", headers=bearer(text))).json()} == {SEEN}
        assert await streamed(client, text) == {SEEN, "det-gpu"}
    metrics = (await client.get("/metrics", headers=bearer(scoped))).text
    assert f'plugin="{SEEN}"' in metrics and "process_cpu_seconds" not in metrics


async def streamed(client: httpx.AsyncClient, text: str) -> set[str]:
    """The plugins in a stream of all events and health, which names no other."""
    headers, params = {**bearer(text), "Accept": "text/event-stream"}, {"after": 0, "include": "health"}
    plugins = set()
    async with client.stream("GET", "/v1/events", headers=headers, params=params) as stream:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                async for line in stream.aiter_lines():
                    assert HIDDEN not in line
                    if line.startswith("data: "):
                        found = json.loads(line.removeprefix("data: "))
                        plugins.add(found.get("plugin") or found.get("name"))
    return plugins


async def test_readyz_names_no_plugin_to_a_stranger_where_keys_are_for_some(harness: Harness) -> None:
    """With a key it names those that the key sees; its status is the same for everyone."""
    for name in (HIDDEN, SEEN):
        harness.add(name, silent=True, startup_timeout="60s")
    root, scoped = key(harness, "all", Role.OPERATOR), key(harness, "det", Grant(ALL_RIGHTS, ("det-*",)))
    client = await harness.open()
    found = {}
    for text in ("", scoped, root):
        answer = await client.get("/readyz", headers=bearer(text) if text else {})
        assert answer.status_code == 503
        found[text] = answer.json()["waiting_for"]
    assert found == {"": [], scoped: [SEEN], root: [SEEN, HIDDEN]}


async def test_a_caller_sees_its_own_runs(harness: Harness) -> None:
    """One that may run, and not operate; a viewer and an operator see all. Each run names its caller."""
    harness.add(SEEN, tools={"read": lambda: 1})
    texts = {
        name: key(harness, name, Grant(frozenset({right})))
        for name, right in {"ann": RUN, "bob": RUN, "eyes": READ, "ops": OPERATE}.items()
    }
    client = await harness.open()
    await settled(client, texts["ops"], SEEN)
    runs = {}
    for name in ("ann", "bob"):
        headers = {**bearer(texts[name]), "Prefer": "respond-async"}
        accepted = await client.post(f"/v1/plugins/{SEEN}/tools/read/run", json={}, headers=headers)
        assert (accepted.status_code, accepted.json()["caller"]) == (202, name)
        runs[name] = accepted.json()["run_id"]
        got = await client.get(f"/v1/runs/{runs[name]}/result?wait=10", headers=bearer(texts[name]))
        assert got.json()["result"] == 1
    for name, own in (("ann", {"ann"}), ("bob", {"bob"}), ("eyes", {"ann", "bob"}), ("ops", {"ann", "bob"})):
        listed = (await client.get("/v1/runs", headers=bearer(texts[name]))).json()
        assert {each["caller"] for each in listed} == own
        for caller, run_id in runs.items():
            for path in (f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/result"):
                answer = await client.get(path, headers=bearer(texts[name]))
                assert (answer.status_code == 200) is (caller in own), (name, path)
    assert (await client.delete(f"/v1/runs/{runs['ann']}", headers=bearer(texts["bob"]))).status_code == 404
    assert (await client.delete(f"/v1/runs/{runs['ann']}", headers=bearer(texts["ann"]))).status_code == 200


async def test_a_caller_is_told_who_it_is(harness: Harness) -> None:
    """By its key: what it may, on which plugins. Without keys everybody may everything."""
    await harness.open()
    answer = await harness.client.get("/v1/caller")
    assert answer.json() == {"name": None, "may": ["read", "run", "operate"], "plugins": ["*"]}
    await harness.shut()
    grant = Grant(frozenset({RUN}), plugins=("det-*",))
    key = KeyStore(harness.settings.state_dir).add("ci", grant)
    await harness.open()
    assert (await harness.client.get("/v1/caller")).status_code == 401
    answer = await harness.client.get("/v1/caller", headers=bearer(key))
    assert answer.json() == {"name": "ci", "may": ["read", "run"], "plugins": ["det-*"]}
