"""A plugin with several instances on the page: a row each, what is missing, and how many serve."""

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, expect
from support.harness import Harness

from orchestrator.lifecycle import ReasonCode
from orchestrator.registry import ContainerFacts, PluginRegistry

pytestmark = pytest.mark.slow

Look = Callable[..., Awaitable[Page]]
MIB = 1024**2


def more_instances(registry: PluginRegistry) -> None:
    """Of `ocr`: a second one that failed, a third that is ready, a candidate that starts; three are wanted."""
    registry.set_wanted("ocr", 3)
    for generation in (2, 3):
        registry.renew("ocr", keep=range(generation))
        container = ContainerFacts("c0ffee", f"ocr-{generation}", None, memory_usage_bytes=generation * 100 * MIB)
        gpu = {"uuid": f"GPU-{generation}", "index": generation, "name": "NVIDIA H100 80GB HBM3"}
        registry.update("ocr", generation, container=container, gpus=(gpu,))
        registry.mark_initialized("ocr", generation)
    registry.mark_ended("ocr", 2, ReasonCode.OUT_OF_MEMORY, "It used more than 1 GiB. Raise limits.memory.")
    registry.renew("ocr", keep=(1, 2, 3), role="candidate", version="2.0.0")


async def test_each_instance_has_a_row_and_what_is_missing_a_sentence(lived_in: Harness, look: Look) -> None:
    """State, role, version, memory, GPU, and why it ended; the row of the list says how many serve."""
    page = await look("/plugins/ocr")
    await expect(page.get_by_role("heading", name="ocr")).to_be_visible()
    await expect(page.locator(".instances")).to_be_hidden()

    assert lived_in.app is not None
    more_instances(lived_in.app.state.context.registry)

    table = page.get_by_role("region", name="Instances of ocr").get_by_role("table")
    rows = table.locator("tbody tr")
    await expect(rows).to_have_count(5)
    await expect(rows.nth(0)).to_contain_text("1RUNNING")
    await expect(rows.nth(1)).to_contain_text("2FAILED")
    await expect(rows.nth(2)).to_have_text("OUT_OF_MEMORY It used more than 1 GiB. Raise limits.memory.")
    await expect(rows.nth(3)).to_contain_text("300 MiB3")
    await expect(rows.nth(4)).to_contain_text("4LOADED candidate2.0.0")
    why = (
        "2 of 3 instances serve: instance 2 is FAILED OUT_OF_MEMORY: It used more than 1 GiB. Raise limits.memory. "
        "Then run `orchestrator restart ocr --only failed`."
    )
    await expect(page.locator(".plugin-page > .reason")).to_have_text(f"degraded {why}")
    await expect(page.locator(".meta")).to_contain_text("2 of 3 ready")
    await expect(page.locator(".history")).to_contain_text("instance 2")
    await expect(page.locator(".tiles")).to_contain_text("712 MiB of 2 GiB")

    await page.goto(f"{lived_in.client.base_url}#/")
    row = page.locator(".plugin", has_text="Reads the text of scanned pages")
    await expect(row.locator(".reason")).to_have_text(f"degraded {why}")
    await expect(row.locator(".how")).to_contain_text("2 of 3 ready")
