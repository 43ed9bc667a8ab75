"""Plugins whose sockets cannot be reached as files: all that a caller sees is the same, and nothing stays behind."""

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "plugins"
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
    assert beside(deployment) == []


def beside(deployment: str) -> list[str]:
    """Gateways and volumes that an orchestrator's containers have, or have left behind."""
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
    """The container of the gateway, as the engine knows it."""
    engine = docker.from_env()
    try:
        return engine.containers.get(live.health(plugin)["container"]["name"] + "-gateway")
    finally:
        engine.close()


def published(live: LiveOrchestrator, plugin: str) -> tuple[str, int]:
    (binding,) = gateway(live, plugin).attrs["NetworkSettings"]["Ports"]["7000/tcp"]
    return binding["HostIp"], int(binding["HostPort"])


def asked(address: tuple[str, int], request: bytes) -> bytes:
    """The first line of what is answered."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096).partition(b"\r\n")[0]


def test_a_call_and_its_stream(live: LiveOrchestrator) -> None:
    assert live.run("echo", "echo", {"text": "grüß"}).json()["result"] == "grüß"
    lines = live.run("echo", "count", {"n": 500}, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert len(lines) == 1001
    assert '"end"' in lines[-1]


def test_an_upload_of_ten_megabytes_arrives_whole(live: LiveOrchestrator) -> None:
    content = os.urandom(10 * MIB)
    for tool, parameter in (("sum_bytes", "data"), ("save", "file")):
        result = live.run("echo", tool, files={parameter: content}).json()["result"]
        assert (result["length"], result["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_many_calls_side_by_side(live: LiveOrchestrator) -> None:
    """They wait together, not one after another."""
    ids = []
    for _ in range(4):
        answer = live.run("echo", "sleep", {"seconds": 1}, headers={"Prefer": "respond-async"})
        ids.append(answer.json()["run_id"])
    began = time.monotonic()
    for run_id in ids:
        assert live.client.get(f"/v1/runs/{run_id}/result", params={"wait": 30}).json()["ok"]
    assert time.monotonic() - began < 3


def test_a_stream_that_nobody_reads_any_more_is_stopped(live: LiveOrchestrator) -> None:
    """The generator ends at its next line; the plugin goes on."""
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


def test_only_who_has_the_token_comes_in(live: LiveOrchestrator) -> None:
    """256 random bits, in a file: in no environment, no label and no command line of either container."""
    host, port = published(live, "echo")
    assert host == "127.0.0.1"
    (file,) = live.run_dir.rglob(f"{live.health('echo')['container']['name'][-8:]}/gateway-token")
    token = file.read_text()
    assert len(bytes.fromhex(token)) == 32
    known = f"GET /control HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    for request in (
        b"GET /control HTTP/1.1\r\n\r\n",
        known.replace(token.encode(), b"0" * 64),
        known.replace(b"Bearer", b"Basic"),
        known.replace(token.encode(), b""),
    ):
        assert asked((host, port), request) == b"HTTP/1.1 401 Unauthorized"
    assert asked((host, port), known) == b"HTTP/1.1 101 Switching Protocols"
    assert asked((host, port), known.replace(b"/control", b"/../etc/passwd")) == b"HTTP/1.1 404 Not Found"
    engine = docker.from_env()
    try:
        plugin = engine.containers.get(live.health("echo")["container"]["id"])
        assert token not in str(plugin.attrs) + str(gateway(live, "echo").attrs)
    finally:
        engine.close()
    assert (file.stat().st_mode & 0o777, file.parent.parent.stat().st_mode & 0o777) == (0o444, 0o700)


def test_the_plugin_itself_still_has_no_network(live: LiveOrchestrator) -> None:
    """Nor the token, and nothing of the gateway's but the sockets' folder."""
    engine = docker.from_env()
    try:
        attributes = engine.containers.get(live.health("echo")["container"]["id"]).attrs
    finally:
        engine.close()
    assert attributes["HostConfig"]["NetworkMode"] == "none"
    targets = {mount["Destination"] for mount in attributes["Mounts"]}
    assert targets == {"/run/plugin", "/scratch"}
    assert live.run("echo", "connect", {"host": "172.17.0.1", "port": 1}).json()["result"] != "connected"


def test_a_gateway_is_held_as_tightly_as_a_plugin_and_reaches_nobody(live: LiveOrchestrator) -> None:
    """What its network lets out: nothing beyond the host's own address on it."""
    container = gateway(live, "echo")
    host = container.attrs["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    other = gateway(live, "hangs").attrs["NetworkSettings"]["Networks"]["plugin-orchestrator"]["IPAddress"]
    code = "import socket,sys; socket.create_connection((sys.argv[1], 7000), 2)"
    assert container.exec_run(["python", "-c", code, other]).exit_code != 0


def test_over_its_time_and_over_its_memory(live: LiveOrchestrator) -> None:
    answer = live.run("hangs", "run")
    assert (answer.status_code, answer.json()["reason_code"]) == (504, "TIMEOUT")
    answer = live.run("eats-memory", "run")
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "OUT_OF_MEMORY")
    for plugin in ("hangs", "eats-memory"):
        assert live.wait_for(plugin, "FAILED")["reason_code"] in {"TIMEOUT", "OUT_OF_MEMORY"}


def test_what_ended_leaves_nothing(live: LiveOrchestrator) -> None:
    """However it ended: the two that failed before, and one whose container is removed by somebody else."""
    engine = docker.from_env()
    try:
        engine.containers.get(live.health("echo")["container"]["id"]).remove(force=True)
    finally:
        engine.close()
    live.wait_for("echo", "FAILED", "UNAVAILABLE")
    end = time.monotonic() + 20
    while left := beside(live.deployment):
        assert time.monotonic() < end, left
        time.sleep(0.2)
    assert live.restart("echo")["state"] == "INITIALIZED"


def test_a_gateway_that_dies_takes_its_instance_along_and_a_restart_mends_it(live: LiveOrchestrator) -> None:
    live.restart("hangs")
    gateway(live, "hangs").kill()
    assert live.wait_for("hangs", "FAILED")["reason_code"] == "UNRESPONSIVE"
    assert live.restart("hangs")["state"] == "INITIALIZED"


def test_adopted_after_a_kill(live: LiveOrchestrator) -> None:
    """Address and token are found again, and a run that executes meanwhile is delivered; what lost its container while
    nobody looked is cleared away.
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
    live.begin()
    live.until_it_answers()
    live.wait_ready(60)
    assert live.health("echo")["container"]["id"] == before
    run = live.client.get(f"/v1/runs/{answer.json()['run_id']}/result", params={"wait": 30}).json()
    assert run["ok"], run
    assert live.run("echo", "echo", {"text": "again"}).json()["result"] == "again"
    assert lost["name"] + "-gateway" not in beside(live.deployment)
