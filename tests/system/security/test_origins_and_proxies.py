"""Pages of other sites, a path below a proxy, users whom a proxy names: each where it is configured, nowhere else."""

from pathlib import Path

import httpx
import pytest
from support.harness import Harness

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import Grant, Right
from orchestrator.settings import Settings

APP = "https://app.example.org"
RUN = "/v1/plugins/reader/tools/read/run"


async def ready(harness: Harness, key: str = "") -> httpx.AsyncClient:
    harness.add("reader", tools={"read": lambda: 1})
    client = await harness.open()
    if key:
        client.headers["Authorization"] = f"Bearer {key}"
    await harness.settled("reader")
    return client


def preflight(client: httpx.AsyncClient, origin: str) -> httpx.Request:
    return client.build_request(
        "OPTIONS",
        RUN,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, x-run-id, prefer",
        },
    )


async def test_a_page_of_an_allowed_origin_calls_with_its_key(tmp_path: Path) -> None:
    """The browser asks without the key whether it may; also a refusal can be read. Another origin may nothing."""
    async with Harness(tmp_path, allowed_origins=(APP,)) as harness:
        key = KeyStore(harness.settings.state_dir).add("app", Role.OPERATOR)
        client = await ready(harness, key)
        del client.headers["Authorization"]
        asked = await client.send(preflight(client, APP))
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == APP
        assert "x-run-id" in asked.headers["access-control-allow-headers"].lower()
        assert (await client.send(preflight(client, "https://evil.example"))).status_code == 400
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {key}"}, 200)):
            answer = await client.post(RUN, json={}, headers={"Origin": APP, **headers})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)
        assert "X-Run-Id" in answer.headers["access-control-expose-headers"]
        other = await client.post(
            RUN, json={}, headers={"Origin": "https://evil.example", "Authorization": f"Bearer {key}"}
        )
        assert "access-control-allow-origin" not in other.headers


async def test_without_keys_an_allowed_origin_may_call_too(tmp_path: Path) -> None:
    """As the orchestrator's own page may; no other."""
    async with Harness(tmp_path, allowed_origins=(APP,)) as harness:
        client = await ready(harness)
        for origin, status in ((APP, 200), ("https://evil.example", 403), (f"{APP}.evil.example", 403)):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert (await client.post(RUN, json={}, headers=headers)).status_code == status


async def test_by_default_no_page_of_another_site_may_read(harness: Harness) -> None:
    """Nor is it told that it might."""
    client = await ready(harness)
    assert (await client.send(preflight(client, APP))).status_code in (403, 405)
    assert "access-control-allow-origin" not in (await client.get("/v1/plugins", headers={"Origin": APP})).headers


@pytest.mark.parametrize("passed_on", [True, False])
async def test_below_a_path_everything_is_where_the_proxy_shows_it(tmp_path: Path, *, passed_on: bool) -> None:
    """Whether the proxy passes the path on or leaves it out."""
    async with Harness(tmp_path, root_path="/tools/one") as harness:
        client = await ready(harness)
        base = "/tools/one" if passed_on else ""
        assert (await client.get(f"{base}/v1/plugins")).json()[0]["name"] == "reader"
        assert (await client.get(f"{base}/v1/plugins/reader/health")).status_code == 200
        accepted = await client.post(base + RUN, json={}, headers={"Prefer": "respond-async"})
        location = accepted.headers["Location"]
        assert location == f"/tools/one/v1/runs/{accepted.json()['run_id']}"
        shown = location if passed_on else location.removeprefix("/tools/one")
        assert (await client.get(f"{shown}/result", params={"wait": 10})).json()["result"] == 1
        page = await client.get(f"{base}/")
        assert page.status_code == 200 and 'src="assets/app.js"' in page.text and '"/assets' not in page.text
        assert (await client.get(f"{base}/assets/app.js")).status_code == 200
        docs = (await client.get(f"{base}/docs")).text
        assert "'/tools/one/openapi.json'" in docs and '"/tools/one/docs-assets/' in docs
        assert (await client.get(f"{base}/docs-assets/swagger-ui.css")).status_code == 200
        assert (await client.get(f"{base}/openapi.json")).json()["servers"] == [{"url": "/tools/one"}]


async def test_the_path_itself_leads_to_the_page_and_no_other_path_counts(tmp_path: Path) -> None:
    """The page's own addresses are relative, so that they need the slash. Keys hold below the path too."""
    async with Harness(tmp_path, root_path="/tools") as harness:
        client = await ready(harness)
        moved = await client.get("/tools")
        assert (moved.status_code, moved.headers["Location"]) == (308, "/tools/")
        assert (await client.get("/toolsv1/plugins")).status_code == 404
        key = KeyStore(harness.settings.state_dir).add("det", Grant(frozenset(Right), ("det-*",)))
        while (await client.get("/tools/v1/plugins")).status_code != 401:
            pass
        for path in ("/v1/plugins/reader/health", "/v1/plugins/reader/logs"):
            assert (await client.get(f"/tools{path}")).status_code == 401
            refused = await client.get(f"/tools{path}", headers={"Authorization": f"Bearer {key}"})
            assert (refused.status_code, refused.json()["error_type"]) == (404, "UnknownPlugin")


async def test_a_trusted_proxys_user_has_the_rights_of_its_entry(tmp_path: Path) -> None:
    """And its runs have its name. Whoever it does not know is refused, and so is a header that is there twice."""
    async with Harness(tmp_path, trusted_proxies=("127.0.0.0/8",), proxy_user_header="X-User") as harness:
        store = KeyStore(harness.settings.state_dir)
        store.add_user("ann@example.org", Grant(frozenset({Right.RUN})))
        client = await ready(harness, store.add("root", Role.OPERATOR))
        del client.headers["Authorization"]
        ann = {"X-User": "ann@example.org"}
        assert (await client.post(RUN, json={}, headers=ann)).json()["result"] == 1
        assert [run["caller"] for run in (await client.get("/v1/runs", headers=ann)).json()] == ["ann@example.org"]
        assert (await client.post("/v1/plugins/reader/stop", headers=ann)).status_code == 403
        unknown = await client.get("/v1/plugins", headers={"X-User": "bob"})
        assert (unknown.status_code, unknown.json()["error_type"]) == (403, "UnknownUser")
        twice = httpx.Headers([("X-User", "bob"), ("X-User", "ann@example.org")])
        assert (await client.get("/v1/plugins", headers=twice)).status_code == 403
        assert (await client.get("/v1/plugins", headers={"X-User": "root"})).status_code == 403, "that is a key"
        assert (await client.get("/v1/plugins")).status_code == 401


async def test_from_any_other_address_the_header_is_nothing(tmp_path: Path) -> None:
    """Nor by default from any."""
    for number, settings in enumerate(({"trusted_proxies": ("192.0.2.0/24",)}, {})):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with Harness(folder, **settings) as harness:
            KeyStore(harness.settings.state_dir).add_user("ann", Role.OPERATOR)
            client = await harness.open()
            for name in ("X-Forwarded-User", "X-User"):
                assert (await client.get("/v1/plugins", headers={name: "ann"})).status_code == 401


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ALLOWED_ORIGINS", "*"), ("ALLOWED_ORIGINS", "app.example"), ("ALLOWED_ORIGINS", "https://a.example/x"),
        ("ROOT_PATH", "plugins"), ("ROOT_PATH", "/a/../b"), ("ROOT_PATH", "https://a.example"), ("ROOT_PATH", "/a b"),
        ("TRUSTED_PROXIES", "proxy.example"), ("PROXY_USER_HEADER", "X User"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_at_the_start(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not found out by the first caller."""
    monkeypatch.setenv(f"ORCHESTRATOR_{variable}", text)
    with pytest.raises(ValueError, match=variable.lower()):
        Settings()


def test_several_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all lists of settings are."""
    monkeypatch.setenv("ORCHESTRATOR_ALLOWED_ORIGINS", "https://A.example, http://localhost:3000")
    monkeypatch.setenv("ORCHESTRATOR_TRUSTED_PROXIES", "10.0.0.1,fd00::/8")
    monkeypatch.setenv("ORCHESTRATOR_ROOT_PATH", "/plugins/")
    found = Settings()
    assert found.allowed_origins == ("https://a.example", "http://localhost:3000")
    assert [str(network) for network in found.trusted_proxies] == ["10.0.0.1/32", "fd00::/8"]
    assert found.root_path == "/plugins"
