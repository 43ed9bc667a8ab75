"""A real browser in front of the whole orchestrator."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect
from support.checkout import PROJECT
from support.harness import Harness
from system.dashboard.scene import furnish, live_a_little

AXE = PROJECT / "orchestrator/dashboard/node_modules/axe-core/axe.min.js"
QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")
TIMEOUT = 10_000.0
"""Milliseconds, for what the page does and for what is expected of it."""
expect.set_options(timeout=TIMEOUT)

Open = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium: the host's own, or playwright's where it was installed."""
    own = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    sandbox = os.geteuid() != 0  # Chromium refuses to make one as root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=own, args=QUIET, chromium_sandbox=sandbox)
        yield browser
        await browser.close()


@pytest.fixture
async def look(browser: Browser, harness: Harness) -> AsyncIterator[Open]:
    """Opens the page at an address after the `#`. Errors of its scripts and refusals by its rules fail the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    async def look(address: str = "/", *, allowed: tuple[str, ...] = (), **options: Any) -> Page:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                errors.append(f"{message.text} at {message.location['url']}")
                if message.type == "error" and not any(text in message.text for text in allowed)
                else None
            ),
        )
        await page.goto(f"{harness.client.base_url}#{address}")
        return page

    yield look
    for context in contexts:
        await context.close()
    assert errors == []


@pytest.fixture
async def lived_in(harness: Harness) -> Harness:
    """Plugins in every state."""
    furnish(harness)
    await harness.open()
    await live_a_little(harness)
    return harness
