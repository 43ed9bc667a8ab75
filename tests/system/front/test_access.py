"""Who may call a front, what a caller sees through it, and what a front may do at a host."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from support.certificates import write_certificate
from support.fronted_hosts import FrontedHosts
from support.harness import Harness, open_front

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import ALL_RIGHTS, Grant, Rate, Right, Share
from orchestrator.front.hosts_file import HostEntry
from orchestrator.settings import Settings


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


class Keys:
    """Of the front's callers: `ci` runs, `det` sees `writer` alone, `root` does everything."""

    def __init__(self, settings: Settings) -> None:
        store = KeyStore(settings.state_dir)
        self.ci = store.add("ci", Grant(frozenset({Right.RUN}), share=Share(rate=Rate(2, 3600.0))))
        self.det = store.add("det", Grant(ALL_RIGHTS, ("writ*",)))
        self.root = store.add("root", Role.OPERATOR)


@pytest.fixture
async def keys(three: FrontedHosts) -> Keys:
    """Every host has a key of its own for the front, and knows none of the callers'."""
    for name in "abc":
        KeyStore(three[name].settings.state_dir).add("operator", Role.OPERATOR)
    made = Keys(three.front_settings)
    await _opened(three)
    return made


async def _opened(three: FrontedHosts) -> None:
    entries = []
    for name in "abc":
        await three[name].open(direct=True)
        entries.append(three[name].host_entry(name))
    three.client = await three.open_front(entries)


async def test_nobody_calls_without_a_key(three: FrontedHosts, keys: Keys) -> None:
    """Neither with one that only a host knows."""
    host_key = (three["a"].settings.state_dir / "front-key").read_text()
    for headers in ({}, bearer(host_key)):
        for path in ("/v1/plugins", "/v1/hosts", "/v1/runs", "/metrics"):
            assert (await three.client.get(path, headers=headers)).status_code == 401, path
    assert (await three.client.get("/v1/plugins", headers=bearer(keys.ci))).status_code == 200


async def test_rights_hold_before_any_host_is_asked(three: FrontedHosts, keys: Keys) -> None:
    refused = await three.client.post("/v1/plugins/writer/stop", headers=bearer(keys.ci))
    assert (refused.status_code, refused.json()["error_type"]) == (403, "RoleTooSmall")
    assert (await three.client.post("/v1/plugins/writer/stop", headers=bearer(keys.root))).status_code == 200


async def test_a_key_for_some_plugins_learns_nothing_of_others(three: FrontedHosts, keys: Keys) -> None:
    """On whichever host they are."""
    client, headers = three.client, bearer(keys.det)
    assert [plugin["name"] for plugin in (await client.get("/v1/plugins", headers=headers)).json()] == ["writer"]
    for path in ("health", "events", "logs", "tools"):
        assert (await client.get(f"/v1/plugins/reader/{path}", headers=headers)).status_code == 404, path
    await three.run("reader", "read", bearer(keys.root))
    await three.run("writer", "write", headers)
    for path in ("/v1/runs", "/v1/events", "/metrics"):
        text = (await client.get(path, headers=headers)).text
        assert "writer" in text and "reader" not in text, path


async def test_a_run_is_its_callers_at_the_host_too(three: FrontedHosts, keys: Keys) -> None:
    """With the caller's name, which sees its own runs, and with the bounds of its key."""
    for headers in (bearer(keys.ci), bearer(keys.root), bearer(keys.ci)):
        assert (await three.run("writer", "write", headers)).status_code == 200
    refused = await three.run("writer", "write", bearer(keys.ci))
    assert (refused.status_code, refused.json()["error_type"]) == (429, "RateExceeded")
    seen = {
        name: [run["caller"] for run in (await three.client.get("/v1/runs", headers=bearer(key))).json()]
        for name, key in (("ci", keys.ci), ("root", keys.root))
    }
    assert seen == {"ci": ["ci", "ci"], "root": ["ci", "root", "ci"]}


async def test_nobody_is_someone_else_by_a_header(three: FrontedHosts, keys: Keys) -> None:
    """Neither at the front, nor at a host where the caller may not do everything anyway."""
    forged = {"X-Orchestrator-Caller": '{"name":"root","rights":["run","operate"]}'}
    refused = await three.client.post("/v1/plugins/writer/stop", headers={**bearer(keys.ci), **forged})
    assert refused.status_code == 403
    for path in ("/v1/plugins/writer/tools/write/run", "/v1/webhooks/test"):
        refused = await three.client.post(path, json={}, headers={**bearer(keys.det), **forged})
        assert (refused.status_code, refused.json()["error_type"]) == (403, "RoleTooSmall"), path
    assert (await three.client.get("/v1/runs", headers=bearer(keys.root))).json() == []
    assert (await three.client.get("/readyz", headers={**bearer(keys.det), **forged})).status_code == 200
    viewer = KeyStore(three["c"].settings.state_dir).add("viewer", Role.VIEWER)
    await _key_counts(three["c"], viewer)
    at_host = await three["c"].client.post("/v1/plugins/writer/stop", headers={**bearer(viewer), **forged})
    assert (at_host.status_code, at_host.json()["error_type"]) == (403, "RoleTooSmall")


async def test_a_host_refuses_on_behalf_of_nobody(three: FrontedHosts, keys: Keys) -> None:
    """What cannot be read gives no right."""
    host_key = (three["c"].settings.state_dir / "front-key").read_text()
    for text, status in (("{}", 400), ('{"name":"x","rights":["read"]}', 403)):
        headers = {**bearer(host_key), "X-Orchestrator-Caller": text}
        assert (await three["c"].client.post("/v1/plugins/writer/stop", headers=headers)).status_code == status


async def _key_counts(harness: Harness, key: str) -> None:
    """A key that was added while it serves counts within a second."""
    async with asyncio.timeout(5):
        while (await harness.client.get("/v1/plugins", headers=bearer(key))).status_code != 200:
            await asyncio.sleep(0.3)


async def test_a_host_that_refuses_the_fronts_key_says_what_to_do(tmp_path: Path) -> None:
    """It is not one of those that answer, and the reason is with it."""
    async with FrontedHosts(tmp_path, "a", "b") as hosts:
        for name in "ab":
            hosts[name].add("reader", tools={"read": lambda: 1})
        KeyStore(hosts["b"].settings.state_dir).add("operator", Role.OPERATOR)
        entries = []
        for name in "ab":
            await hosts[name].open(direct=True)
            entries.append(HostEntry(name=name, address=hosts[name].address))
        hosts.client = await hosts.open_front(entries, wait_for=["a"])
        problem: str | None = None
        while problem is None:
            problem = (await hosts.client.get("/v1/hosts")).json()[1]["problem"]
        assert "refuses the front's key (401)" in problem and "key_file in hosts.yaml" in problem
        assert (await hosts.states()) == {"a": "ONLINE", "b": "JOINING"}
        assert (await hosts.run("reader", "read")).status_code == 200


@pytest.mark.parametrize(
    "grant",
    [Grant(ALL_RIGHTS, ("*r*",)), Grant(frozenset({Right.RUN})), Role.VIEWER],
    ids=["some plugins", "run", "viewer"],
)
async def test_a_weak_key_of_the_front_gives_its_callers_nothing(tmp_path: Path, grant: Grant | Role) -> None:
    """A host that cannot hold callers to their own rights is none for them, and says what to do."""
    async with FrontedHosts(tmp_path, "a") as hosts:
        hosts["a"].add("reader", tools={"read": lambda: 1})
        store = KeyStore(hosts["a"].settings.state_dir)
        root, key_file = store.add("operator", Role.OPERATOR), tmp_path / "key"
        key_file.write_text(store.add("front", grant))
        await hosts["a"].open(direct=True)
        await _key_counts(hosts["a"], key_file.read_text())
        ci = KeyStore(hosts.front_settings.state_dir).add("ci", Grant(frozenset({Right.RUN})))
        entry = HostEntry(name="a", address=hosts["a"].address, key_file=key_file)
        client = await hosts.open_front([entry], wait_for=[])
        async with asyncio.timeout(5):
            while not (host := (await client.get("/v1/hosts", headers=bearer(ci))).json()[0])["problem"]:
                await asyncio.sleep(0.02)
        assert host["state"] == "JOINING" and "refuses the front's key (403)" in host["problem"]
        run = await client.post("/v1/plugins/reader/tools/read/run", json={}, headers=bearer(ci))
        assert run.status_code in (403, 404, 503), run.text
        assert (await hosts["a"].client.get("/v1/runs", headers=bearer(root))).json() == []


@pytest.mark.parametrize("change", ["removed", "weaker"])
async def test_a_key_of_the_front_that_is_taken_away_shows(three: FrontedHosts, keys: Keys, change: str) -> None:
    """The stream of events that it opened goes on; the first request that is refused ends that."""
    store = KeyStore(three["c"].settings.state_dir)
    name = next(key.name for key in store.listed() if key.name.startswith("front-"))
    if change == "removed":
        store.remove(name)
    else:
        store.change(name, lambda key: replace(key, grant=Grant(frozenset({Right.RUN}))))
    async with asyncio.timeout(10):
        while (await three.run("writer", "write", bearer(keys.root))).status_code == 200:
            await asyncio.sleep(0.2)
        while (host := (await three.client.get("/v1/hosts", headers=bearer(keys.root))).json()[2])["state"] != "STALE":
            await three.client.get("/v1/plugins", headers=bearer(keys.root))
            await asyncio.sleep(0.1)
    assert "refuses the front's key" in host["problem"]


async def test_a_host_is_verified_by_its_certificate(tmp_path: Path) -> None:
    """By the CA in hosts.yaml; another one's is refused, and nothing is sent to it."""
    certificate, key = write_certificate(tmp_path / "host", "host")
    other, _ = write_certificate(tmp_path / "other", "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with Harness(tmp_path) as harness, AsyncExitStack() as stack:
        harness.add("reader", tools={"read": lambda: "x" * 300_000})
        await harness.open(direct=True)
        address = await harness.serve_again(stack, tls=context)
        entry = HostEntry(name="a", address=address, ca_file=certificate)
        settings = harness.settings
        front = await open_front(stack, settings, [entry])
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=front.address, trust_env=False, verify=False, timeout=20)
        )
        for _ in range(3):
            answer = await client.post("/v1/plugins/reader/tools/read/run", json={})
            assert (answer.status_code, len(answer.json()["result"])) == (200, 300_000)
        wrong = HostEntry(name="a", address=address, ca_file=other)
        refused = await open_front(stack, settings, [wrong], wait_for=[])
        stranger = await stack.enter_async_context(
            httpx.AsyncClient(base_url=refused.address, trust_env=False, verify=False, timeout=20)
        )
        run = await stranger.post("/v1/plugins/reader/tools/read/run", json={})
        assert (run.status_code, run.json()["reason_code"]) == (503, "HOST_UNREACHABLE")
        assert "its certificate is not trusted" in run.json()["error"]
