"""Accessibility: no serious fault found by axe, no horizontal scrolling, everything by keyboard."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect
from support.harness import Harness
from system.dashboard.conftest import AXE

pytestmark = pytest.mark.slow

Look = Callable[..., Awaitable[Page]]
VIEWS = {
    "list": "/",
    "plugin": "/plugins/ocr",
    "post-mortem": "/plugins/upscaler",
    "tools": "/plugins/ocr/tools",
    "logs": "/plugins/ocr/logs",
    "gpus": "/gpus",
    "runs": "/runs",
    "unknown": "/plugins/nobody",
}
SEEN = {"tools": ".tool", "logs": ".log-line", "gpus": ".gpus .card", "list": ".plugin", "post-mortem": ".post-mortem"}


@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "desktop"])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_no_serious_fault(lived_in: Harness, look: Look, theme: str, width: int) -> None:
    viewport = {"width": width, "height": 740}
    page = await look("/", viewport=viewport, color_scheme=theme, reduced_motion="reduce")
    for view, address in VIEWS.items():
        await page.goto(f"{lived_in.client.base_url}#{address}")
        await expect(page.locator("h1")).to_be_visible()
        if view in SEEN:
            await expect(page.locator(SEEN[view]).first).to_be_visible()
        assert await _faults(page) == [], view
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, view
    await page.goto(f"{lived_in.client.base_url}#/plugins/ocr")
    await page.get_by_role("button", name="Restart").click()
    assert await _faults(page) == [], "the confirm dialog"


async def _faults(page: Page) -> list[Any]:
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        (fault["id"], fault["help"], [node["html"][:200] for node in fault["nodes"]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


async def test_a_plugin_is_reached_by_keyboard(lived_in: Harness, look: Look) -> None:
    page = await look("/")
    await expect(page.get_by_role("link", name="ocr", exact=True)).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.locator("#skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.get_by_role("searchbox").focus()
    await page.keyboard.type("ocr")
    await expect(page.locator(".plugin")).to_have_count(1)
    await page.get_by_role("link", name="ocr", exact=True).focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1, name="ocr")).to_be_focused()
    await expect(page).to_have_title("ocr · Plugin orchestrator")


async def test_every_request_goes_to_the_orchestrator(lived_in: Harness, look: Look) -> None:
    page = await look("/")
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    for address in VIEWS.values():
        await page.goto(f"{lived_in.client.base_url}#{address}")
        await expect(page.locator("h1")).to_be_visible()
    await page.reload()
    await expect(page.locator("h1")).to_be_visible()
    assert len(addresses) > 10
    assert [one for one in addresses if not one.startswith((str(lived_in.client.base_url), "blob:"))] == []


async def test_the_list_is_filtered_by_state(lived_in: Harness, look: Look) -> None:
    page = await look("/")
    await expect(page.locator(".plugin")).to_have_count(9)
    failed = page.get_by_role("button", name="3 FAILED")
    await failed.click()
    await expect(failed).to_have_attribute("aria-pressed", "true")
    await expect(page.locator(".plugin h2")).to_have_text(["broken", "face-blur", "upscaler"])
    await failed.click()
    await expect(page.locator(".plugin")).to_have_count(9)
