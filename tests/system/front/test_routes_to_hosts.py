"""Which host a request goes to that no plugin's place decides, and what is said where some hosts do not answer."""

import asyncio
from pathlib import Path

import pytest
from support.fronted_hosts import FrontedHosts
from support.harness import eventually
from system.front.conftest import Gate

from orchestrator.front.plugin_forwarding import PluginForwarding

pytestmark = pytest.mark.one_host


async def drained(hosts: FrontedHosts) -> list[bool]:
    return [(await hosts[name].client.get("/v1/host")).json()["drained"] for name in "abc"]


async def test_what_is_one_hosts_own_needs_its_name(three: FrontedHosts) -> None:
    client = await three.open()
    for method, path in (
        ("POST", "/v1/host/drain"),
        ("POST", "/v1/host/resume"),
        ("GET", "/v1/host"),
        ("GET", "/v1/webhooks"),
        ("POST", "/v1/webhooks/w/test"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error_type"]) == (409, "HostRequired"), path
        assert "X-Host: a" in answer.json()["error"]
        answer = await client.request(method, path, headers={"X-Host": "d"})
        assert (answer.status_code, answer.json()["error_type"]) == (404, "UnknownHost"), path
    assert await drained(three) == [False, False, False]
    answer = await client.post("/v1/host/drain", headers={"X-Host": "b"})
    assert (answer.status_code, answer.headers["x-host"]) == (200, "b")
    assert await drained(three) == [False, True, False]
    assert (await client.get("/v1/webhooks", headers={"X-Host": "c"})).headers["x-host"] == "c"
    # What is the same everywhere needs none, and a named host is the one that answers.
    assert (await client.get("/openapi.json")).status_code == 200
    assert (await client.get("/openapi.json", headers={"X-Host": "c"})).headers["x-host"] == "c"


@pytest.mark.parametrize("action", ["stop", "restart", "park"])
async def test_a_command_of_all_hosts_says_which_were_silent(three: FrontedHosts, action: str) -> None:
    client = await three.open()
    three.network["b"].cut()
    await three.until_host("b", "STALE")
    answer = await client.post(f"/v1/plugins/reader/{action}")
    found = answer.json()
    assert (answer.status_code, found["error_type"], found["host"]) == (503, "HostUnreachable", "b"), found
    assert f"The {action} of reader was done on a, and not on b" in found["error"]
    assert "retry-after" not in answer.headers
    if action != "restart":
        assert (await three["a"].health("reader"))["state"] == "UNAVAILABLE"
    # A single host that answers is told from the others by its name.
    assert (await client.post("/v1/plugins/reader/restart", headers={"X-Host": "a"})).status_code == 200


async def test_a_host_that_never_answered_is_as_good_as_silent(three: FrontedHosts) -> None:
    await three.open()
    three.network["b"].cut()
    client = await three.open_front(three.entries, wait_for=["a", "c"])
    assert {host["name"]: host["state"] for host in (await client.get("/v1/hosts")).json()}["b"] == "JOINING"
    answer = await client.post("/v1/plugins/reader/stop")
    assert (answer.status_code, answer.json()["host"]) == (503, "b"), answer.text
    assert (await three["a"].health("reader"))["reason_code"] == "STOPPED"


async def test_a_scale_that_a_host_takes_no_share_of_is_refused(three: FrontedHosts) -> None:
    client = await three.open()
    for host in "ab":
        await three[host].client.post("/v1/host/drain")
        await three.until_host(host, "DRAINING")
        answer = await client.post("/v1/plugins/reader/scale", json={"replicas": 6})
        assert (answer.status_code, answer.json()["error_type"]) == (409, "NoSuitableHost"), answer.text
        assert f"{host} is drained" in answer.json()["error"]
    assert [(await three[host].health("reader"))["replicas"]["wanted"] for host in "ab"] == [1, 1]
    answer = await client.post("/v1/plugins/reader/scale", json={"replicas": 2}, headers={"X-Host": "a"})
    assert answer.status_code == 200


async def test_a_scale_of_a_plugin_that_is_stopped_everywhere_is_shared_too(three: FrontedHosts) -> None:
    client = await three.open()
    assert (await client.post("/v1/plugins/reader/stop")).status_code == 200
    answer = await client.post("/v1/plugins/reader/scale", json={"replicas": 5})
    assert answer.status_code == 200, answer.text
    wanted = [(await three[host].health("reader"))["replicas"]["wanted"] for host in "ab"]
    assert sorted(wanted) == [2, 3]


async def test_a_label_is_changed_under_a_run(three: FrontedHosts, gate: Gate) -> None:
    await three.open()
    run = asyncio.create_task(three.run("reader", "wait", {"X-Host": "b"}))
    await eventually(lambda: three.known.load("b", "reader") == 1, "it is on its way")
    a, b, c = three.entries
    await three.known.update([a, b.model_copy(update={"labels": {"spot": "true"}}), c])
    assert (await three.states())["b"] == "ONLINE"
    assert three.known.directory.hosts["b"].labels == {"spot": "true"}
    gate.open.set()
    assert (await run).json()["result"] == 1


async def test_the_last_host_is_not_forgotten(tmp_path: Path) -> None:
    async with FrontedHosts(tmp_path, "a") as hosts:
        client = await hosts.open()
        hosts.network["a"].cut()
        await hosts.until_host("a", "STALE")
        answer = await client.post("/v1/hosts/a/forget")
        assert (answer.status_code, answer.json()["error_type"]) == (409, "LastHost"), answer.text
        assert await hosts.states() == {"a": "STALE"}


async def test_a_front_whose_hosts_were_all_forgotten_says_so(three: FrontedHosts) -> None:
    """By hosts.yaml having only what was forgotten."""
    client = await three.open()
    await three.known.forget("a")
    await three.known.update([three.entries[0]])
    assert await three.states() == {}
    for method, path in (("GET", "/"), ("GET", "/docs"), ("POST", "/v1/gpus/x/release"), ("GET", "/v1/webhooks")):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error_type"]) == (503, "HostUnreachable"), path
        assert "no hosts" in answer.json()["error"]


async def test_a_start_whose_caller_leaves_goes_to_one_host(
    three: FrontedHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plugin that no host is known to have: the first may have begun it."""
    client = await three.open()
    sent: list[str] = []

    async def left(_: PluginForwarding, host: str, __: object) -> None:
        sent.append(host)

    monkeypatch.setattr(PluginForwarding, "_command", left)
    assert (await client.post("/v1/plugins/another/start")).status_code == 204
    assert sent == ["a"]
