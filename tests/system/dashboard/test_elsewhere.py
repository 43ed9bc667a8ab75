"""A real browser on a page of another site, and on the orchestrator's own page below a path of nginx's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from support.harness import Harness
from support.nginx import needs_nginx, nginx_before
from system.dashboard.conftest import TIMEOUT

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role

CALL = """
async ([api, key]) => {
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const call = `${api}/v1/plugins/reader/tools/read/run`;
  try {
    const answer = await fetch(call, { method: "POST", headers, body: "{}" });
    const events = await fetch(`${api}/v1/events`, { headers: { ...headers, Accept: "text/event-stream" } });
    const first = await events.body.getReader().read();
    const { result } = await answer.json();
    return { result, run: answer.headers.get("X-Run-Id"), events: first.value.length > 0 };
  } catch (error) {
    return { refused: String(error) };
  }
}
"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def other_site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [True, False])
async def test_a_page_of_another_site_calls_only_where_it_may(
    tmp_path: Path, browser: Browser, *, allowed: bool
) -> None:
    """With its key, by a stream too; otherwise its browser refuses to show it anything."""
    with other_site() as site:
        async with Harness(tmp_path, allowed_origins=(site,) if allowed else ()) as harness:
            harness.add("reader", tools={"read": lambda: 1})
            client = await harness.open()
            await harness.settled("reader")
            key = KeyStore(harness.settings.state_dir).add("app", Role.OPERATOR)
            while (await client.get("/v1/plugins")).status_code != 401:
                pass
            context = await browser.new_context()
            try:
                page = await context.new_page()
                page.set_default_timeout(TIMEOUT)
                await page.goto(site)
                found = await page.evaluate(CALL, [str(client.base_url).rstrip("/"), key])
            finally:
                await context.close()
        if allowed:
            assert (found["result"], found["events"], len(found["run"])) == (1, True, 32)
        else:
            assert "Failed to fetch" in found["refused"]


@needs_nginx
@pytest.mark.slow
@pytest.mark.parametrize("passed_on", [True, False])
async def test_the_page_works_below_a_path(tmp_path: Path, browser: Browser, *, passed_on: bool) -> None:
    """Of an nginx that passes the path on, and of one that leaves it out: it shows plugins and runs a tool."""
    async with Harness(tmp_path, root_path="/tools/one") as harness:
        harness.add("reader", tools={"read": lambda: "seventeen"})
        client = await harness.open()
        await harness.settled("reader")
        upstream = str(client.base_url).rstrip("/")
        onward = upstream if passed_on else f"{upstream}/"
        # Without keys the page has to be seen as the orchestrator's own, by the host that its browser names.
        settings = (
            f"location /tools/one/ {{ proxy_pass {onward}; proxy_set_header Host $http_host; }}"
            "location = /tools/one { return 301 $scheme://$http_host/tools/one/; }"
        )
        elsewhere = "http://127.0.0.1:1"  # whatever is not below the path goes astray
        with nginx_before(elsewhere, settings) as address:
            context = await browser.new_context()
            missed: list[str] = []
            try:
                page = await context.new_page()
                page.set_default_timeout(TIMEOUT)
                page.on("response", lambda answer: missed.append(answer.url) if answer.status >= 400 else None)
                await page.goto(f"{address}/tools/one#/plugins/reader/tools")
                await page.locator(".card.tool").get_by_role("button", name="Run").click()
                await expect(page.locator(".card.tool .verdict")).to_contain_text("Done in")
                result = page.locator(".card.tool").get_by_role("region", name="Result as JSON")
                assert "seventeen" in await result.inner_text()
                await page.goto(f"{address}/tools/one/docs")
                await page.get_by_text("/v1/plugins/{name}/health").first.wait_for()
            finally:
                await context.close()
            assert missed == []
