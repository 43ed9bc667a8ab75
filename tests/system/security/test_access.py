"""Who may call: with keys, without keys, and from a page in the operator's browser."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkout import TESTS
from support.harness import TIMEOUT, Harness

from orchestrator.access.hosts import HostRule, is_loopback
from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.api.route_table import ROUTES

FIXTURES = TESTS / "fixtures" / "plugins"
READS = [
    "/v1/plugins", "/v1/plugins/reader/health", "/v1/plugins/reader/tools", "/v1/plugins/reader/logs",
    "/v1/plugins/reader/events", "/v1/gpus", "/v1/nothing",
]  # fmt: skip
CHANGES = [f"/v1/plugins/reader/{action}" for action in ("restart", "start", "stop", "tools/read/run")]


async def house_with_keys(harness: Harness) -> tuple[httpx.AsyncClient, str, str]:
    """A client without a key, a viewer's key, an operator's."""
    harness.add("reader", tools={"read": lambda: 1})
    store = KeyStore(harness.settings.state_dir)
    viewer, operator = store.add("eyes", Role.VIEWER), store.add("hands", Role.OPERATOR)
    client = await harness.open()
    async with httpx.AsyncClient(base_url=client.base_url, headers=bearer(viewer), trust_env=False) as known:
        while (await known.get("/v1/plugins/reader/health")).json()["state"] == "LOADED":
            pass
    return client, viewer, operator


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_without_a_key_nothing_is_shown_and_nothing_done(harness: Harness) -> None:
    """401 in the envelope on every route, known or not; no plugin's name shows."""
    client, _, _ = await house_with_keys(harness)
    for method, path in [("GET", path) for path in READS] + [("POST", path) for path in CHANGES]:
        answer = await client.request(method, path)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["ok"] is False and "ORCHESTRATOR_API_KEY" in answer.json()["error"]
        assert "reader" not in answer.text


async def test_routes_without_data_are_open(harness: Harness) -> None:
    """Probes need no key."""
    client, _, _ = await house_with_keys(harness)
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.get("/")).status_code != 401
    assert (await client.get("/docs")).status_code == 200
    assert (await client.get("/openapi.json")).json()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert (await client.get("/assets/x.js")).status_code != 401
    assert (await client.get("/assets/../v1/plugins")).status_code in (401, 404)
    assert (await client.get("/healthz/../v1/plugins")).status_code == 401


async def test_no_route_is_open_but_those_of_the_table(harness: Harness) -> None:
    """Of all that the API describes. And the table names no route that does not exist."""
    client, _, _ = await house_with_keys(harness)
    described = (await client.get("/openapi.json")).json()["paths"]
    open_paths = {route.path for route in ROUTES if route.open}
    for path, methods in described.items():
        for method in methods:
            refused = (await client.request(method, path)).status_code == 401
            assert refused is (path not in open_paths), (method, path)
    undescribed = {route.path for route in ROUTES} - set(described)
    assert undescribed == {"/", "/assets/*", "/docs", "/docs-assets/*", "/openapi.json", "/mcp", "/v1/webhooks/*"}


async def test_a_viewer_reads_and_changes_nothing(harness: Harness) -> None:
    """403 for everything but GET and HEAD, and nothing has happened."""
    client, viewer, _ = await house_with_keys(harness)
    before = (await client.get("/v1/plugins/reader/health", headers=bearer(viewer))).json()
    for path in CHANGES:
        answer = await client.post(path, headers=bearer(viewer), json={})
        assert (answer.status_code, answer.json()["error_type"]) == (403, "RoleTooSmall")
        assert "eyes" in answer.json()["error"] and "operator" in answer.json()["error"]
    for method in ("DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW"):
        assert (await client.request(method, "/v1/plugins", headers=bearer(viewer))).status_code in (400, 403)
    after = (await client.get("/v1/plugins/reader/health", headers=bearer(viewer))).json()
    assert (after["generation"], after["success_count"]) == (before["generation"], 0)


async def test_an_operator_does_everything(harness: Harness) -> None:
    """With any spelling of the scheme."""
    client, _, operator = await house_with_keys(harness)
    for scheme in ("Bearer", "bearer", "BEARER "):
        headers = {"Authorization": f"{scheme} {operator}"}
        answer = await client.post("/v1/plugins/reader/tools/read/run", json={}, headers=headers)
        assert answer.json()["result"] == 1
    assert (await client.post("/v1/plugins/reader/stop", headers=bearer(operator))).status_code == 200


WRONG = ["Bearer", "Basic po_x", "po_x", "Bearer " + "x" * 7000, "Bearer \xff\xfe", "Bearer null", ""]


@pytest.mark.parametrize("header", WRONG, ids=range(len(WRONG)))
async def test_anything_but_a_key_is_401(harness: Harness, header: str) -> None:
    """Never an internal error."""
    client, _, _ = await house_with_keys(harness)
    answer = await client.get("/v1/plugins", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401


async def test_an_expired_key_is_refused_as_expired(harness: Harness) -> None:
    """By its name."""
    key = KeyStore(harness.settings.state_dir).add("old", Role.OPERATOR, datetime.now(UTC) - timedelta(seconds=1))
    client = await harness.open()
    answer = await client.get("/v1/plugins", headers=bearer(key))
    assert answer.status_code == 401
    assert "'old' has expired" in answer.json()["error"]


async def test_wrong_keys_are_limited_and_the_right_one_still_passes(harness: Harness) -> None:
    """429 with the seconds to wait; a caller that shares the address is not locked out."""
    client, viewer, _ = await house_with_keys(harness)
    statuses = [(await client.get("/v1/plugins", headers=bearer("wrong" * 9))).status_code for _ in range(11)]
    limited = await client.get("/v1/plugins", headers=bearer("wrong" * 9))
    assert statuses == [401] * 10 + [429]
    assert limited.status_code == 429 and 0 < int(limited.headers["Retry-After"]) <= 60
    assert (await client.get("/v1/plugins", headers=bearer(viewer))).status_code == 200


async def test_wrong_keys_count_for_the_caller_behind_a_proxy(harness: Harness) -> None:
    """The proxy is on this host, which is trusted: its other callers can still mistype theirs."""
    client, _, _ = await house_with_keys(harness)
    statuses = {}
    for address in ("192.0.2.1", "192.0.2.2"):
        forwarded = {**bearer("wrong" * 9), "X-Forwarded-For": address}
        tries = range(12 if address.endswith("1") else 1)
        statuses[address] = [(await client.get("/v1/plugins", headers=forwarded)).status_code for _ in tries]
    assert statuses["192.0.2.1"][-1] == 429
    assert statuses["192.0.2.2"] == [401]


async def test_a_key_added_while_it_runs_is_required_from_then_on(harness: Harness) -> None:
    """Within a second; after its removal loopback is open again."""
    client = await harness.open()
    assert (await client.get("/v1/plugins")).status_code == 200
    store = KeyStore(harness.settings.state_dir)
    store.add("first", Role.VIEWER)
    await becomes(client, 401)
    store.remove("first")
    await becomes(client, 200)


async def becomes(client: httpx.AsyncClient, status: int) -> None:
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if (await client.get("/v1/plugins")).status_code == status:
            return
    raise AssertionError(f"it never became {status}")


async def test_a_refused_upload_is_not_read(harness: Harness) -> None:
    """The connection is closed after the response."""
    client, _, _ = await house_with_keys(harness)
    answer = await client.post(CHANGES[-1], content=b"x" * 10_000)
    assert answer.status_code == 401
    assert answer.headers["Connection"] == "close"


FOREIGN: list[tuple[str, Mapping[str, str]]] = [
    ("ForeignHost", {"Host": "evil.example"}),
    ("ForeignHost", {"Host": "evil.example:8000"}),
    ("ForeignHost", {"Host": "127.0.0.1.evil.example"}),
    ("ForeignHost", {"Host": "localhost.evil.example"}),
    ("ForeignHost", {"Host": "localhost@evil.example"}),
    ("ForeignHost", {"Host": "192.168.1.1"}),
    ("ForeignHost", {"Host": "[::2]"}),
    ("ForeignHost", {"Host": ""}),
    ("ForeignPage", {"Origin": "https://evil.example"}),
    ("ForeignPage", {"Origin": "null"}),
    ("ForeignPage", {"Origin": ""}),
    ("ForeignPage", {"Origin": "http://localhost:9"}),
    ("ForeignPage", {"Origin": "http://127.0.0.1"}),
    ("ForeignPage", {"Sec-Fetch-Site": "cross-site"}),
    ("ForeignPage", {"Sec-Fetch-Site": "same-site"}),
]


@pytest.mark.parametrize(("error_type", "headers"), FOREIGN, ids=str)
async def test_a_page_of_another_site_can_do_nothing_without_a_key(
    harness: Harness, error_type: str, headers: Mapping[str, str]
) -> None:
    """Neither by DNS rebinding nor by a cross-site request; and nothing has happened."""
    harness.add("reader")
    client = await harness.open()
    before = await harness.settled("reader")
    answer = await client.post("/v1/plugins/reader/restart", headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (403, error_type)
    if error_type == "ForeignHost":
        assert (await client.get("/v1/plugins", headers=headers)).status_code == 403
    assert (await harness.health("reader"))["generation"] == before["generation"]


async def test_its_own_page_and_callers_without_a_browser_may_call(harness: Harness) -> None:
    """By any loopback name."""
    harness.add("reader", tools={"read": lambda: 1})
    client = await harness.open()
    port = client.base_url.port
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.8.9.1", "x.localhost", "localhost."):
        headers = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post(CHANGES[-1], json={}, headers=headers)).status_code == 200, name


async def test_a_host_that_the_operator_allows_is_answered(tmp_path: Path) -> None:
    """ORCHESTRATOR_ALLOWED_HOSTS, for a proxy in front of it."""
    async with Harness(tmp_path, allowed_hosts=("plugins.example",)) as harness:
        client = await harness.open()
        headers = {"Host": "plugins.example", "Origin": "https://plugins.example"}
        assert (await client.get("/v1/plugins", headers=headers)).status_code == 200
        assert (await client.post("/v1/plugins/x/start", headers=headers)).status_code == 404


@pytest.mark.one_host
async def test_exposed_and_without_any_key_it_answers_nothing(tmp_path: Path) -> None:
    """The last key was removed while it ran: that must not open it to the network."""
    async with Harness(tmp_path, host="0.0.0.0") as harness:
        client = await harness.open()
        answer = await client.get("/v1/plugins")
        assert answer.status_code == 401
        assert "orchestrator keys add" in answer.json()["error"]
        assert (await client.get("/healthz")).status_code == 200


@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=60)))
def test_any_header_has_a_verdict(host: str, origin: str | None) -> None:
    """Whatever it contains; and only a loopback name is ever allowed."""
    rule = HostRule()
    rule.page_allowed(origin, host, None)
    if rule.host_allowed(host):
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        assert is_loopback(name.split("]")[0].lstrip("["))


def serve(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")} | {
        f"ORCHESTRATOR_{name}": value for name, value in settings.items()
    }
    environment |= {"ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"), "ORCHESTRATOR_PLUGINS_DIRS": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "serve"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "host.example"])
def test_beyond_loopback_without_a_key_is_refused_at_the_start(tmp_path: Path, host: str) -> None:
    """With what to do, before anything is bound."""
    refused = serve(tmp_path, HOST=host, PORT="0")
    assert refused.returncode == 1
    assert "orchestrator keys add" in refused.stderr and host in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_key_file_that_holds_no_key_is_refused_at_the_start(tmp_path: Path) -> None:
    """With the setting's name, without the content of the file."""
    (tmp_path / "key").write_text("hunter2\n")
    refused = serve(tmp_path, OPERATOR_KEY_FILE=str(tmp_path / "key"))
    missing = serve(tmp_path, VIEWER_KEY_FILE=str(tmp_path / "nowhere"))
    assert refused.returncode == missing.returncode == 1
    assert "ORCHESTRATOR_OPERATOR_KEY_FILE" in refused.stderr and "hunter2" not in refused.stderr
    assert "ORCHESTRATOR_VIEWER_KEY_FILE" in missing.stderr


@pytest.mark.slow
def test_keys_from_files_let_it_listen_beyond_loopback(tmp_path: Path) -> None:
    """As Compose provides secrets; the command line reads its key from ORCHESTRATOR_API_KEY."""
    operator, viewer = "o" * 40, "v" * 40
    (tmp_path / "operator").write_text(f"{operator}\n")
    (tmp_path / "viewer").write_text(viewer)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    environment = os.environ | {
        "ORCHESTRATOR_HOST": "0.0.0.0",
        "ORCHESTRATOR_PORT": port,
        "ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"),
        "ORCHESTRATOR_RUN_DIR": str(tmp_path / "run"),
        "ORCHESTRATOR_PLUGINS_DIRS": str(tmp_path / "none"),
        "ORCHESTRATOR_OPERATOR_KEY_FILE": str(tmp_path / "operator"),
        "ORCHESTRATOR_VIEWER_KEY_FILE": str(tmp_path / "viewer"),
        "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock",
    }
    command = [sys.executable, "-m", "orchestrator"]
    process = subprocess.Popen([*command, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_until_it_answers(client, process)
            assert client.get("/v1/plugins").status_code == 401
            assert client.get("/v1/plugins", headers=bearer(viewer)).status_code == 200
            assert client.post("/v1/plugins/x/start", headers=bearer(viewer)).status_code == 403
            assert client.post("/v1/plugins/x/start", headers=bearer(operator)).status_code == 404
        run = [*command, "plugins", "--json"]
        without = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120, check=False)
        environment["ORCHESTRATOR_API_KEY"] = viewer
        with_key = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert without.returncode != 0 and "ORCHESTRATOR_API_KEY" in without.stderr
        assert with_key.returncode == 0 and with_key.stdout.strip() == "[]"
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert operator.encode() not in errors and viewer.encode() not in errors


def wait_until_it_answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            client.get("/healthz", timeout=1)
        except httpx.TransportError:
            assert process.poll() is None
        else:
            return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("it never answered")
