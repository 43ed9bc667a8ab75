"""Updates of the page without a reload: states, logs, and the page's own connection."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect
from support.harness import Harness
from system.dashboard.scene import count

pytestmark = pytest.mark.slow

Look = Callable[..., Awaitable[Page]]


def explode() -> None:
    raise ValueError("the <img src=x onerror=alert(1)> is broken")


def row(page: Page, name: str) -> Any:
    return page.locator(".plugin", has=page.get_by_role("link", name=name, exact=True))


async def open_house(harness: Harness) -> None:
    harness.add("fragile", tools={"explode": explode, "count": count})
    harness.add("steady", tools={"count": count})
    await harness.open()
    await harness.settled("fragile")
    await harness.settled("steady")


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "polling"])
async def test_a_failing_plugin_turns_red_without_a_reload(harness: Harness, look: Look, streamed: bool) -> None:
    """Also without a stream, and screen readers announce it; text from the plugin is never markup."""
    await open_house(harness)
    page = await look("/nowhere", allowed=("429",))
    if not streamed:
        await page.route("**/v1/events*", lambda route: route.fulfill(status=429))
        await page.reload()
    await page.goto(f"{harness.client.base_url}#/")
    await expect(page.locator("#connection")).to_have_text("Live" if streamed else "Polling every 2 s")
    await expect(row(page, "fragile").locator(".badge")).to_have_text("INITIALIZED")
    before = await row(page, "fragile").locator(".badge").evaluate("badge => getComputedStyle(badge).color")
    await page.evaluate("window.sameDocument = true")

    await harness.run("fragile", "explode")

    await expect(row(page, "fragile").locator(".badge")).to_have_text("FAILED")
    await expect(row(page, "fragile")).to_contain_text("TOOL_ERROR")
    await expect(row(page, "fragile")).to_contain_text("the <img src=x onerror=alert(1)> is broken")
    await expect(row(page, "fragile")).to_contain_text("1 failed")
    await expect(page.locator("#announcer")).to_contain_text("fragile is now FAILED")
    red, green, blue = (
        await row(page, "fragile")
        .locator(".badge")
        .evaluate("badge => getComputedStyle(badge).color.match(/[0-9]+/g).slice(0, 3).map(Number)")
    )
    assert red > 2 * max(green, blue), before
    await expect(row(page, "steady").locator(".badge")).to_have_text("INITIALIZED")
    assert await page.evaluate("window.sameDocument")


async def test_a_lost_connection_is_shown_and_restored(harness: Harness, look: Look) -> None:
    await open_house(harness)
    page = await look("/", allowed=("ERR_",))
    await expect(page.locator("#connection")).to_have_text("Live")
    await page.context.set_offline(True)
    await page.route("**/v1/**", lambda route: route.abort())
    await harness.client.post("/v1/plugins/steady/stop")  # wakes a stream that offline emulation leaves open
    await page.evaluate("import('/assets/live.js').then(({ live }) => live.reconnect())")
    await expect(page.locator("#connection")).to_contain_text("Reconnecting: as of")
    await expect(row(page, "fragile")).to_be_visible()
    await page.unroute("**/v1/**")
    await page.context.set_offline(False)
    await expect(page.locator("#connection")).to_have_text("Live", timeout=20_000)
    await expect(row(page, "steady").locator(".badge")).to_have_text("UNAVAILABLE")


async def test_the_log_is_followed(harness: Harness, look: Look) -> None:
    """Lines as they come, also those of the next instance."""
    await open_house(harness)
    harness.instance("steady").handle.log("printed before")
    page = await look("/plugins/steady/logs")
    log = page.get_by_role("log")
    await expect(log).to_contain_text("printed before")
    harness.instance("steady").handle.log("printed <b>now</b>")
    await expect(log).to_contain_text("printed <b>now</b>")
    await harness.client.post("/v1/plugins/steady/restart?wait=5")
    harness.instance("steady").handle.log("printed by the next")
    await expect(log).to_contain_text("printed by the next")
    await expect(log).to_contain_text("printed before")
    await expect(log.locator(".log-note").last).to_have_text("--- instance 2 ---")


async def test_a_plugin_whose_folder_was_removed_leaves_the_list(
    harness: Harness, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.supervisor.fleet._FOLDERS_INTERVAL", 0.05)
    await open_house(harness)
    page = await look("/")
    await expect(row(page, "steady")).to_be_visible()
    harness.remove("steady")
    await harness.client.post("/v1/plugins/steady/stop")
    await expect(row(page, "steady")).to_have_count(0)
    await expect(row(page, "fragile")).to_be_visible()


async def test_a_post_mortem_appears_when_the_container_is_removed(harness: Harness, look: Look) -> None:
    await open_house(harness)
    page = await look("/plugins/fragile")
    await expect(page.locator(".history")).to_contain_text("INITIALIZED")
    await expect(page.get_by_role("heading", name="Post-mortem")).to_have_count(0)
    await harness.run("fragile", "explode")
    await expect(page.get_by_role("heading", name="Post-mortem")).to_be_visible()
    await expect(page.get_by_role("region", name="Traceback")).to_contain_text("ValueError: the <img src=x")
    await expect(page.locator(".history")).to_contain_text("TOOL_ERROR")


async def test_the_post_mortem_of_an_earlier_instance_stays_in_reach(harness: Harness, look: Look) -> None:
    await open_house(harness)
    await harness.run("fragile", "explode")
    await harness.until_removed("fragile")
    await harness.client.post("/v1/plugins/fragile/restart?wait=5")
    page = await look("/plugins/fragile")
    await expect(page.locator(".title .badge")).to_have_text("INITIALIZED")
    await page.get_by_text("Post-mortem of instance 1").click()
    await expect(page.get_by_role("region", name="Traceback")).to_contain_text("ValueError: the <img src=x")


async def test_a_slow_answer_for_all_plugins_hides_nothing(harness: Harness, look: Look) -> None:
    """The page shows that it is loading, not an empty list as if there were no plugins."""
    await open_house(harness)

    async def late(route: Route) -> None:
        await page.wait_for_timeout(600)
        await route.continue_()

    page = await look("/")
    await page.route("**/v1/plugins", late)
    await page.reload()
    await expect(page.locator(".empty")).to_have_text("Loading…")
    await expect(row(page, "steady")).to_be_visible()
