"""Updates, the number of instances, and parking on the page. An update's answers are scripted here."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, Request, Route, expect
from support.harness import Harness
from system.dashboard.conftest import AXE
from system.dashboard.scene import count

pytestmark = pytest.mark.slow

Look = Callable[..., Awaitable[Page]]
STEPS = ("PROPOSED", "BUILT", "STARTING", "PROVING", "SWITCHED", "SETTLED")
WHY = "Call 2 of samples/calls.yaml (count, line 7): expected result to be 3, got 4."


def update(step: str, upto: int = 0, **rest: Any) -> dict[str, Any]:
    reached = [*STEPS[: STEPS.index(step) + 1]] if step in STEPS else [*STEPS[:upto], step]
    return {
        "id": "4f2a7c",
        "plugin": "kit",
        "kind": "update",
        "step": step,
        "ended": step in ("SETTLED", "REJECTED", "REVERTED"),
        "requested_at": "2026-03-01T12:00:00Z",
        "step_times": {each: f"2026-03-01T12:00:0{at}Z" for at, each in enumerate(reached)},
        "strategy_asked": "auto",
        "strategy": "overlap",
        "strategy_reason": "there is room for a second instance",
        "from_release": {"id": "a", "version": "1.2.0"},
        "to_release": {"id": "b", "version": "1.3.0"} if len(reached) > 1 else None,
        "replicas": 1,
        "replicas_updated": int("SWITCHED" in reached),
        "switch_times": ["2026-03-01T12:00:04Z"] * ("SWITCHED" in reached),
        "candidate": None,
        "draining": None,
        "proof": "3 calls of samples/calls.yaml passed." if "SWITCHED" in reached else None,
        "reason_code": None,
        "reason": None,
        "post_mortem": None,
        **rest,
    }


REJECTED = update(
    "REJECTED",
    upto=4,
    reason_code="INVALID_OUTPUT",
    reason=WHY,
    post_mortem={
        "ended_at": "2026-03-01T12:00:04Z",
        "exit_code": 0,
        "signal": None,
        "peak_memory_bytes": None,
        "stacks": "",
        "traceback": "",
        "build_output": "",
        "log_tail": "counts to four\n",
    },
)


class Updates:
    """Answers the routes of updates of `kit`."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.begins = update("PROPOSED")
        self.asked: list[str] = []

    async def answer(self, route: Route, request: Request) -> None:
        self.asked.append(f"{request.method} {request.url.rpartition('/')[2]}")
        if request.method == "POST":
            self.listed.insert(0, self.begins)
        body: Any = self.begins if request.method == "POST" else self.listed
        if request.url.endswith("/releases"):
            served = [each for each in self.listed if each["step"] == "SETTLED"]
            body = {"current": {"id": "b", "version": "1.3.0"}, "revert": served[0]["from_release"] if served else None}
        await route.fulfill(status=202 if request.method == "POST" else 200, json=body)


@pytest.fixture
def updates() -> Updates:
    return Updates()


@pytest.fixture
async def kit(harness: Harness, look: Look, updates: Updates) -> Page:
    """The page of a plugin that serves."""
    harness.add("kit", tools={"count": count}, description="Counts.")
    await harness.open()
    await harness.settled("kit")
    page = await look("/", allowed=("409",))
    await page.route(re.compile("/v1/plugins/kit/(update|revert|updates|releases)$"), updates.answer)
    await page.goto(f"{harness.client.base_url}#/plugins/kit")
    await expect(page.get_by_role("heading", level=1, name="kit")).to_be_visible()
    return page


async def press(page: Page, label: str) -> None:
    """A command's button, and the same in its dialog."""
    await page.get_by_role("button", name=label, exact=True).click()
    await page.get_by_role("dialog", name=f"{label} kit?").get_by_role("button", name=label).click()


async def faults(page: Page) -> list[str]:
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [fault["id"] for fault in found["violations"] if fault["impact"] in ("serious", "critical")]


async def test_an_update_is_followed_step_by_step_to_its_end(kit: Page, updates: Updates) -> None:
    """The current step is marked for everyone; the end says what serves now, and offers to go back."""
    panel = kit.get_by_role("region", name="Update of kit")
    await expect(panel).to_be_hidden()
    await press(kit, "Update")
    await expect(panel.get_by_role("heading")).to_have_text("Update")
    await expect(panel.get_by_role("status")).to_have_text("PROPOSED: its folder is checked, its image is built.")
    await expect(panel.get_by_role("listitem")).to_have_count(6)
    updates.listed[0] = update("PROVING")
    await expect(panel.locator("[aria-current=step]")).to_contain_text("PROVING1.3.0 is being proven")
    await expect(panel.get_by_role("listitem").nth(1)).to_contain_text(
        "1.3.0: overlap, since there is room for a second instance"
    )
    assert await faults(kit) == []
    await expect(kit.get_by_role("button", name="Revert")).to_be_hidden()
    for command in ("Update", "Restart", "Park"):
        await expect(kit.get_by_role("button", name=command, exact=True)).to_be_disabled()
        await expect(kit.get_by_role("button", name=command, exact=True)).to_have_accessible_description(
            "The update 4f2a7c is under way. Wait for its end; Stop ends it too."
        )
    await expect(kit.get_by_label("Instances", exact=True)).to_be_disabled()
    await expect(kit.get_by_role("button", name="Stop", exact=True)).to_be_enabled()
    updates.listed[0] = update("SETTLED")
    await expect(panel.get_by_role("heading")).to_have_text("Last update to 1.3.0")
    await expect(panel.get_by_role("status")).to_have_text("It is 1.3.0 now. 3 calls of samples/calls.yaml passed.")
    await expect(kit.get_by_role("button", name="Revert")).to_be_visible()
    await expect(kit.get_by_role("button", name="Restart", exact=True)).to_be_enabled()
    await expect(kit.get_by_text("is under way. Wait for its end")).to_be_hidden()
    updates.begins = update("PROPOSED", id="9c", kind="revert")
    await press(kit, "Revert")
    await expect(panel.get_by_role("status")).to_have_text("PROPOSED: its former image is looked up.")
    assert [one for one in updates.asked if one.startswith("POST")] == ["POST update", "POST revert"]


async def test_a_rejection_has_its_reason_and_the_post_mortem(kit: Page, updates: Updates) -> None:
    panel = kit.get_by_role("region", name="Update of kit")
    await press(kit, "Update")
    await expect(panel.get_by_role("heading")).to_have_text("Update")
    updates.listed[:] = [REJECTED, update("SETTLED", id="9c")]
    await expect(panel.get_by_role("status")).to_have_text(
        f"Rejected: the plugin stays what it was (1.2.0). INVALID_OUTPUT: {WHY}"
    )
    await panel.get_by_text("Post-mortem of the candidate").click()
    await expect(panel.get_by_role("region", name="Last lines of its log")).to_have_text("counts to four\n")
    await panel.get_by_text("Earlier ones").click()
    await expect(panel.locator("details").last).to_contain_text("SETTLED")
    assert await faults(kit) == []


async def test_a_refused_update_is_said(kit: Page) -> None:
    async def refuse(route: Route) -> None:
        sentence = "The update 4f2a7c of kit is under way: PROVING since 12:00:03 UTC."
        await route.fulfill(status=409, json={"ok": False, "error": sentence, "error_type": "UpdateUnderWay"})

    await kit.route(re.compile("/v1/plugins/kit/update$"), refuse)
    await press(kit, "Update")
    await expect(kit.locator(".notice").first).to_contain_text("is under way: PROVING")


async def test_the_number_of_instances_is_set_by_keyboard(kit: Page, harness: Harness) -> None:
    field = kit.get_by_label("Instances", exact=True)
    scale = kit.get_by_role("button", name="Scale")
    await expect(field).to_have_value("1")
    await expect(scale).to_be_disabled()
    await field.fill("3")
    await kit.keyboard.press("Enter")
    dialog = kit.get_by_role("dialog", name="Scale kit?")
    await expect(dialog).to_contain_text("3 at a time, in place of 1.")
    await dialog.get_by_role("button", name="Scale").click()
    await harness.until("kit", lambda health: health["replicas"]["ready"] == 3)
    await expect(kit.locator(".meta")).to_contain_text("3 of 3 ready · the manifest says 1")
    await expect(kit.get_by_role("region", name="Instances of kit").locator("tbody tr")).to_have_count(3)
    await expect(scale).to_be_disabled()
    await field.fill("65")
    await kit.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()


async def test_only_those_that_failed_are_started_again(kit: Page, harness: Harness) -> None:
    await expect(kit.get_by_role("button", name="Restart only failed")).to_be_hidden()
    await harness.client.post("/v1/plugins/kit/scale", json={"replicas": 2}, params={"wait": 30})
    await harness.engine.kill((await harness.containers("kit"))[-1])
    await harness.until("kit", lambda health: health["degraded"])
    await press(kit, "Restart only failed")
    await harness.until("kit", lambda health: health["replicas"]["ready"] == 2)
    await expect(kit.get_by_role("button", name="Restart only failed")).to_be_hidden()


async def test_a_parked_plugin_is_at_rest(kit: Page, harness: Harness) -> None:
    """Its badge and its filter have a name of their own, in the colour of rest; its next run starts it."""
    await press(kit, "Park")
    await expect(kit.locator(".title .badge")).to_have_text("PARKED")
    await expect(kit.locator(".meta")).to_contain_text("parked since")
    await expect(kit.locator(".meta")).to_contain_text("starts in about")
    await expect(kit.get_by_role("button", name="Park")).to_be_hidden()
    await expect(kit.get_by_role("button", name="Stop")).to_be_visible()
    await expect(kit.locator(".history .badge").first).to_have_text("PARKED")
    await expect(kit.get_by_text("Post-mortem of instance 1")).to_be_visible()
    await expect(kit.locator(".post-mortem")).to_have_count(0)
    await expect(kit.locator("#announcer")).to_contain_text("kit is now PARKED")
    ground = "(it) => getComputedStyle(it).backgroundColor"
    quiet = await kit.locator(".plugin-page > .reason").evaluate(ground)
    # In one step: the page may write the reason anew at any time.
    loud = "(it) => { it.dataset.state = 'UNAVAILABLE'; return getComputedStyle(it).backgroundColor; }"
    assert quiet != await kit.locator(".plugin-page > .reason").evaluate(loud)
    assert await faults(kit) == []
    await kit.goto(f"{harness.client.base_url}#/")
    await kit.get_by_role("button", name="1 PARKED").click()
    await expect(kit.locator(".plugin .badge")).to_have_text("PARKED")
    assert json.loads((await harness.run("kit", "count", start=1)).text)["ok"]
    await expect(kit.locator(".plugin")).to_have_count(0)


async def test_a_plugin_is_updated_and_brought_back(harness: Harness, look: Look) -> None:
    """Nothing scripted: the whole orchestrator."""
    harness.add("kit", tools={"count": count}, description="Counts.")
    await harness.open()
    await harness.settled("kit")
    harness.write("kit", image="harness/kit", version="2.0.0", description="Counts.")
    page = await look("/plugins/kit/tools")
    panel = page.get_by_role("region", name="Update of kit")
    await press(page, "Update")
    await expect(panel.get_by_role("heading")).to_have_text("Last update to 2.0.0")
    await expect(panel.get_by_role("status")).to_contain_text("It is 2.0.0 now.")
    await expect(page.locator(".meta")).to_contain_text("v2.0.0")
    await press(page, "Revert")
    await expect(panel.get_by_role("heading")).to_have_text("Last revert to 1.0.0")
    await expect(page.locator(".meta")).to_contain_text("v1.0.0")
    await page.goto(f"{harness.client.base_url}#/plugins/kit")
    await panel.get_by_text("Earlier ones").click()
    await expect(panel.locator("details").last).to_contain_text("REVERTED")


async def test_what_a_restart_has_replaced_can_be_gone_back_to(harness: Harness, look: Look) -> None:
    """There was no update: the releases on file say so."""
    harness.add("kit", tools={"count": count}, description="Counts.")
    await harness.open()
    await harness.settled("kit")
    page = await look("/plugins/kit")
    await expect(page.get_by_role("button", name="Update", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="Revert")).to_be_hidden()
    harness.write("kit", image="harness/kit", version="2.0.0", description="Counts.")
    await press(page, "Restart")
    await expect(page.locator(".meta")).to_contain_text("v2.0.0")
    await press(page, "Revert")
    await expect(page.get_by_role("region", name="Update of kit").get_by_role("heading")).to_have_text(
        "Last revert to 1.0.0"
    )
    await expect(page.locator(".meta")).to_contain_text("v1.0.0")
