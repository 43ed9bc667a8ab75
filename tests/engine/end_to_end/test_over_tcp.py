"""Plugins whose sockets are not reachable as files: the same for callers, and nothing remains after their end."""

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

FIXTURES = TESTS / "fixtures" / "plugins"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    for plugin in ("echo", "eats-memory", "hangs"):
        shutil.copytree(FIXTURES / plugin, folder / plugin)
    manifest = folder / "echo" / "plugin.yaml"
    manifest.write_text(manifest.read_text().replace("timeout: 2s", "timeout: 60s"))
    with live_orchestrator([folder], channel="tcp", cancel_grace="3s") as live:
        live.wait_ready(180)
        deployment = live.deployment
        yield live
    assert gateways_and_volumes(deployment) == []


def gateways_and_volumes(deployment: str) -> list[str]:
    """Those of an orchestrator's containers, also of ended ones."""
    engine = docker.from_env()
    filters = {"label": f"gateway.plugin-orchestrator.deployment={deployment}"}
    try:
        gateways = [
            str(container.name) for container in engine.containers.list(all=True, filters=filters, ignore_removed=True)
        ]
        return gateways + [str(volume.name) for volume in engine.volumes.list(filters=filters)]
    finally:
        engine.close()


def gateway(live: LiveOrchestrator, plugin: str) -> Any:
    """The gateway's container, from the engine."""
    engine = docker.from_env()
    try:
        return engine.containers.get(live.health(plugin)["container"]["name"] + "-gateway")
    finally:
        engine.close()


def published(live: LiveOrchestrator, plugin: str) -> tuple[str, int]:
    (binding,) = gateway(live, plugin).attrs["NetworkSettings"]["Ports"]["7000/tcp"]
    return binding["HostIp"], int(binding["HostPort"])


def status_line(address: tuple[str, int], request: bytes) -> bytes:
    """The first line of the response."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096).partition(b"\r\n")[0]


def test_a_call_and_its_stream(live: LiveOrchestrator) -> None:
    assert live.run("echo", "echo", {"text": "grüß"}).json()["result"] == "grüß"
    lines = live.run("echo", "count", {"n": 500}, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert len(lines) == 1001
    assert '"end"' in lines[-1]


def test_an_upload_of_ten_megabytes_arrives_unchanged(live: LiveOrchestrator) -> None:
    content = os.urandom(10 * MIB)
    for tool, parameter in (("sum_bytes", "data"), ("save", "file")):
        result = live.run("echo", tool, files={parameter: content}).json()["result"]
        assert (result["length"], result["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_concurrent_calls(live: LiveOrchestrator) -> None:
    """They execute concurrently, not one after another."""
    ids = []
    for _ in range(4):
        answer = live.run("echo", "sleep", {"seconds": 1}, headers={"Prefer": "respond-async"})
        ids.append(answer.json()["run_id"])
    started = time.monotonic()
    for run_id in ids:
        assert live.client.get(f"/v1/runs/{run_id}/result", params={"wait": 30}).json()["ok"]
    assert time.monotonic() - started < 3


def test_a_stream_whose_reader_disconnected_is_stopped(live: LiveOrchestrator) -> None:
    """The generator ends at its next item; the plugin goes on."""
    before = live.health("echo")["generation"]
    options: dict[str, Any] = {"json": {"n": 1000, "interval": 0.05}, "headers": {"Accept": "application/x-ndjson"}}
    with live.client.stream("POST", "/v1/plugins/echo/tools/count/run", **options) as answer:
        next(answer.iter_lines())
    end = time.monotonic() + 5
    while live.health("echo")["in_flight"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert live.health("echo")["generation"] == before
    assert live.run("echo", "add", {"a": 1, "b": 2}).json()["result"] == 3


def test_the_gateway_requires_the_token(live: LiveOrchestrator) -> None:
    """256 random bits in a file; no environment, label or command line of either container has it."""
    host, port = published(live, "echo")
    assert host == "127.0.0.1"
    (file,) = live.run_dir.rglob(f"{live.health('echo')['container']['name'][-8:]}/gateway-token")
    token = file.read_text()
    assert len(bytes.fromhex(token)) == 32
    authorized = f"GET /control HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    for request in (
        b"GET /control HTTP/1.1\r\n\r\n",
        authorized.replace(token.encode(), b"0" * 64),
        authorized.replace(b"Bearer", b"Basic"),
        authorized.replace(token.encode(), b""),
    ):
        assert status_line((host, port), request) == b"HTTP/1.1 401 Unauthorized"
    assert status_line((host, port), authorized) == b"HTTP/1.1 101 Switching Protocols"
    assert status_line((host, port), authorized.replace(b"/control", b"/../etc/passwd")) == b"HTTP/1.1 404 Not Found"
    engine = docker.from_env()
    try:
        plugin = engine.containers.get(live.health("echo")["container"]["id"])
        assert token not in str(plugin.attrs) + str(gateway(live, "echo").attrs)
    finally:
        engine.close()
    assert (file.stat().st_mode & 0o777, file.parent.parent.stat().st_mode & 0o777) == (0o444, 0o700)


def test_the_plugin_itself_still_has_no_network(live: LiveOrchestrator) -> None:
    """Nor the token, and of the gateway's files only the sockets' folder."""
    engine = docker.from_env()
    try:
        attributes = engine.containers.get(live.health("echo")["container"]["id"]).attrs
    finally:
        engine.close()
    assert attributes["HostConfig"]["NetworkMode"] == "none"
    targets = {mount["Destination"] for mount in attributes["Mounts"]}
    assert targets == {"/run/plugin", "/scratch"}
    assert live.run("echo", "connect", {"host": "172.17.0.1", "port": 1}).json()["result"] != "connected"


def test_a_gateway_is_confined_like_a_plugin_and_reaches_no_other(live: LiveOrchestrator) -> None:
    """Its network leads nowhere but to the host's own address on it."""
    container = gateway(live, "echo")
    host = container.attrs["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    other = gateway(live, "hangs").attrs["NetworkSettings"]["Networks"]["plugin-orchestrator"]["IPAddress"]
    code = "import socket,sys; socket.create_connection((sys.argv[1], 7000), 2)"
    assert container.exec_run(["python", "-c", code, other]).exit_code != 0


def test_time_and_memory_limits(live: LiveOrchestrator) -> None:
    answer = live.run("hangs", "run")
    assert (answer.status_code, answer.json()["reason_code"]) == (504, "TIMEOUT")
    answer = live.run("eats-memory", "run")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "OUT_OF_MEMORY")
    for plugin in ("hangs", "eats-memory"):
        assert live.wait_for(plugin, "FAILED")["reason_code"] in {"TIMEOUT", "OUT_OF_MEMORY"}


def test_an_ended_instance_leaves_nothing_behind(live: LiveOrchestrator) -> None:
    """Neither the two that failed before, nor one whose container another program removes."""
    engine = docker.from_env()
    try:
        engine.containers.get(live.health("echo")["container"]["id"]).remove(force=True)
    finally:
        engine.close()
    live.wait_for("echo", "FAILED", "UNAVAILABLE")
    end = time.monotonic() + 20
    while left := gateways_and_volumes(live.deployment):
        assert time.monotonic() < end, left
        time.sleep(0.2)
    assert live.restart("echo")["state"] == "INITIALIZED"


def test_a_dead_gateway_ends_its_instance_and_a_restart_recovers_it(live: LiveOrchestrator) -> None:
    live.restart("hangs")
    gateway(live, "hangs").kill()
    assert live.wait_for("hangs", "FAILED")["reason_code"] == "UNRESPONSIVE"
    assert live.restart("hangs")["state"] == "INITIALIZED"


def test_adopted_after_a_kill(live: LiveOrchestrator) -> None:
    """Address and token are found again, and a run that executes meanwhile is delivered; an instance that lost its
    container meanwhile loses its gateway too.
    """
    live.restart("eats-memory")
    before = live.wait_for("echo", "INITIALIZED", "RUNNING")["container"]["id"]
    lost = live.health("eats-memory")["container"]
    answer = live.run("echo", "sleep", {"seconds": 3}, headers={"Prefer": "respond-async"})
    time.sleep(0.5)
    live.kill()
    engine = docker.from_env()
    try:
        engine.containers.get(lost["id"]).remove(force=True)
    finally:
        engine.close()
    live.start()
    live.wait_until_serving()
    live.wait_ready(60)
    assert live.health("echo")["container"]["id"] == before
    run = live.client.get(f"/v1/runs/{answer.json()['run_id']}/result", params={"wait": 30}).json()
    assert run["ok"], run
    assert live.run("echo", "echo", {"text": "again"}).json()["result"] == "again"
    assert lost["name"] + "-gateway" not in gateways_and_volumes(live.deployment)
