"""What an operator does on the page: run a tool, restart, enter a key."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect
from support.gpus import GIB, device
from support.harness import Harness
from system.dashboard.scene import count, read_words, sample

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role

pytestmark = pytest.mark.slow

Look = Callable[..., Awaitable[Page]]


def echo(text: str, times: int = 1, ratio: float = 0.5, loud: bool = False, labels: list = None) -> dict[str, Any]:  # type: ignore[assignment, type-arg]  # noqa: RUF013
    return {"text": text, "times": times, "ratio": ratio, "loud": loud, "labels": labels}


def follow(video: Path) -> Iterator[Any]:
    for frame in range(5):
        yield {"event": "progress", "fraction": (frame + 1) / 5, "message": f"frame {frame + 1} of 5"}
        track = {"id": 1, "x": 8 * frame, "y": 5, "width": 60, "height": 40}
        yield {"frame": frame, "time_seconds": frame / 5, "tracks": [track]}


def draw() -> Iterator[Any]:
    """A picture in two chunks."""
    import base64

    picture = sample("motion_detector", "cup-first.png").read_bytes()
    for chunk, half in enumerate((picture[:9000], picture[9000:])):
        yield {"part": chunk, "media_type": "image/png", "data": base64.b64encode(half).decode()}


FILES = {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}
BOX = {
    "type": "object",
    "title": "Box",
    "properties": {"x": {"type": "integer"}, "width": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
    "required": ["x", "width"],
}


def stitch(images: list[bytes], mode: str = "fast", box: dict[str, Any] | None = None, ratio: float = 0.5) -> Any:
    """Join pictures, side by side."""
    return {"sizes": [len(image) for image in images], "mode": mode, "box": box, "ratio": ratio}


stitch.input_schema = {  # type: ignore[attr-defined]
    "type": "object",
    "properties": {
        "images": {**FILES, "description": "the pictures, from left to right"},
        "mode": {"enum": ["fast", "good"], "default": "fast"},
        "box": {"anyOf": [{"$ref": "#/$defs/Box"}, {"type": "null"}], "default": None},
        "ratio": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5, "description": "how much they overlap"},
    },
    "required": ["images"],
    "additionalProperties": False,
    "$defs": {"Box": BOX},
}


@pytest.fixture
async def tools(harness: Harness, look: Look) -> Page:
    """The page of a plugin's tools."""
    kit = {"read_words": read_words, "echo": echo, "follow": follow, "draw": draw, "count": count, "stitch": stitch}
    harness.add("kit", tools=kit)
    await harness.open()
    await harness.settled("kit")
    return await look("/plugins/kit/tools", allowed=("422", "409"))


def card(page: Page, tool: str) -> Any:
    return page.get_by_role("article", name=tool)


async def test_a_tool_is_run_on_a_dropped_picture_and_its_boxes_are_drawn(tools: Page) -> None:
    ocr = card(tools, "read_words")
    picture = list(sample("ocr", "book-page.png").read_bytes())
    transfer = await tools.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "page.png", { type: "image/png" }));
            return transfer;
        }""",
        picture,
    )
    await ocr.locator(".drop-zone").dispatch_event("drop", {"dataTransfer": transfer})
    await expect(ocr.locator("figure img")).to_be_visible()
    await ocr.get_by_label("min_confidence").fill("12.5")
    await ocr.get_by_role("button", name="Run").click()
    await expect(ocr.locator(".verdict")).to_contain_text("Done in")
    result = json.loads(await ocr.get_by_role("region", name="Result as JSON").inner_text())
    assert result["words"][1]["text"] == "<b>mind</b>"
    await expect(ocr.locator(".boxes title")).to_have_text(["generous 96.1", "<b>mind</b> 91.4"])
    await expect(ocr.locator(".boxes b")).to_have_count(0)
    frame = await ocr.locator("figure img").bounding_box()
    box = await ocr.locator(".boxes .box > rect").first.bounding_box()
    assert frame and box
    assert (box["x"] - frame["x"]) / frame["width"] == pytest.approx(330 / 1065, abs=0.02)
    assert box["height"] / frame["height"] == pytest.approx(36 / 1879, abs=0.02)


DROP = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, size] of files) transfer.items.add(new File(["a".repeat(size)], name, { type: "text/plain" }));
    return transfer;
}"""


async def test_several_files_are_chosen_or_dropped_for_one_parameter(tools: Page) -> None:
    form = card(tools, "stitch")
    zone = form.locator(".drop-zone")
    pictures = [sample("motion_detector", "cup-first.png"), sample("ocr", "book-page.png")]
    await form.locator("input[type=file]").set_input_files(pictures)
    await expect(zone).to_contain_text("2 files")
    await expect(zone).to_contain_text("cup-first.png, book-page.png")
    await expect(form.locator("figure img")).to_have_count(2)
    await form.get_by_role("button", name="Run").click()
    shown = form.get_by_role("region", name="Result as JSON")
    await expect(shown).to_contain_text("sizes")
    assert json.loads(await shown.inner_text())["sizes"] == [path.stat().st_size for path in pictures]
    transfer = await tools.evaluate_handle(DROP, [["a", 1], ["b", 2], ["c", 3]])
    await zone.dispatch_event("drop", {"dataTransfer": transfer})
    await expect(zone).to_contain_text("3 files")
    await form.get_by_role("button", name="Run").click()
    await expect(shown).to_contain_text("3")
    assert json.loads(await shown.inner_text())["sizes"] == [1, 2, 3]


async def test_of_files_dropped_for_one_file_the_first_is_sent(tools: Page) -> None:
    zone = card(tools, "read_words").locator(".drop-zone")
    transfer = await tools.evaluate_handle(DROP, [["a", 1], ["b", 2]])
    await zone.dispatch_event("drop", {"dataTransfer": transfer})
    assert await zone.locator("input").evaluate("(input) => [input.multiple, input.files.length]") == [False, 1]


async def test_a_form_shows_what_fits_each_field(tools: Page) -> None:
    form = card(tools, "stitch")
    await expect(form.locator(".drop-zone")).to_contain_text("the pictures, from left to right · files")
    await expect(form.get_by_label("mode").locator("option")).to_have_text(["—", "fast", "good"])
    box = form.get_by_label("box")
    await expect(box).to_have_attribute("placeholder", 'JSON: {"x": integer, "width": integer, "y": integer}')
    await expect(box).to_have_accessible_description("Box {x: integer, width: integer, y: integer = 0} or null")
    ratio = form.get_by_label("ratio")
    await expect(ratio).to_have_accessible_description("how much they overlap · number 0 to 1 = 0.5")
    await form.locator("input[type=file]").set_input_files(sample("motion_detector", "cup-first.png"))
    await box.fill('{"x": 1, "width": 2}')
    await form.get_by_role("button", name="Run").click()
    shown = form.get_by_role("region", name="Result as JSON")
    await expect(shown).to_contain_text("sizes")
    assert json.loads(await shown.inner_text())["box"] == {"x": 1, "width": 2}


@pytest.mark.parametrize(("streaming", "words"), [(False, "returns Box {x: integer"), (True, "yields Box {x: integer")])
async def test_a_tool_shows_what_it_returns(harness: Harness, look: Look, *, streaming: bool, words: str) -> None:
    harness.add("kit", tools={"stitch": stitch})
    await harness.open()
    await harness.settled("kit")
    page = await look("/plugins")
    tool = (await harness.client.get("/v1/plugins/kit/tools")).json()[0]
    described = [{**tool, "streaming": streaming, "output_schema": {"$ref": "#/$defs/Box", "$defs": {"Box": BOX}}}]
    await page.route("**/v1/plugins/kit/tools", lambda route: route.fulfill(json=described))
    await page.goto(f"{harness.client.base_url}#/plugins/kit/tools")
    await expect(card(page, "stitch")).to_contain_text(words)


async def test_each_field_of_the_schema_arrives_as_what_it_is(tools: Page) -> None:
    form = card(tools, "echo")
    await form.get_by_label("text (needed)").fill("3")
    await form.get_by_label("times").fill("4")
    await form.get_by_label("ratio").fill("0.25")
    await form.get_by_label("loud").check()
    await form.get_by_label("labels").fill('["a", "b"]')
    await form.get_by_role("button", name="Run").click()
    shown = form.get_by_role("region", name="Result as JSON")
    await expect(shown).to_contain_text("ratio")
    assert json.loads(await shown.inner_text()) == {
        "text": "3", "times": 4, "ratio": 0.25, "loud": True, "labels": ["a", "b"]
    }  # fmt: skip
    await form.get_by_label("Arguments as JSON").check()
    area = form.get_by_role("textbox", name="Arguments of echo as JSON")
    assert json.loads(await area.input_value()) == json.loads(await shown.inner_text())
    await area.fill('{"text": "by hand"}')
    await form.get_by_role("button", name="Run").click()
    await expect(form.get_by_role("region", name="Text of the result")).to_have_text("by hand")


async def test_invalid_input_and_refusals_are_shown_at_the_form(tools: Page) -> None:
    form = card(tools, "echo")
    await form.get_by_label("labels").fill("[1,")
    await form.get_by_role("button", name="Run").click()
    await expect(form.get_by_role("alert")).to_contain_text("labels: this is not JSON")
    await form.get_by_label("labels").fill("")
    await form.get_by_label("Arguments as JSON").check()
    await form.get_by_role("textbox", name="Arguments of echo as JSON").fill('{"text": "a", "nonsense": 1}')
    await form.get_by_role("button", name="Run").click()
    await expect(form.locator(".verdict")).to_contain_text("nonsense")
    ocr = card(tools, "read_words")
    await ocr.get_by_role("button", name="Run").click()
    await expect(ocr.get_by_role("alert")).to_have_text("Choose a file for image first.")


async def test_a_stream_shows_progress_and_items_as_they_come(tools: Page, harness: Harness) -> None:
    form = card(tools, "count")
    await form.get_by_label("start").fill("4")
    await form.get_by_role("button", name="Run").click()
    await expect(form.locator(".verdict")).to_contain_text("4 items")
    await expect(form.locator(".items li")).to_have_count(4)
    await expect(form.locator(".items li").last).to_contain_text('"left":1')


async def test_a_stream_draws_its_boxes_over_the_video(tools: Page) -> None:
    form = card(tools, "follow")
    await form.locator("input[type=file]").set_input_files(sample("motion_detector", "cup.mp4"))
    await expect(form.locator("figure video")).to_be_visible()
    await form.get_by_role("button", name="Run").click()
    await expect(form.locator(".verdict")).to_contain_text("5 items")
    await expect(form.locator(".boxes rect").first).to_be_attached()


async def test_a_picture_that_comes_in_chunks_is_shown_whole(tools: Page) -> None:
    form = card(tools, "draw")
    await form.get_by_role("button", name="Run").click()
    picture = form.get_by_role("img", name="result.png")
    await expect(picture).to_be_visible()
    assert await picture.evaluate("async (picture) => (await picture.decode(), picture.naturalWidth)") > 100
    async with tools.expect_download() as download:
        await form.get_by_role("button", name="Save result.png").click()
    saved = await (await download.value).path()
    assert saved.read_bytes() == sample("motion_detector", "cup-first.png").read_bytes()


async def test_a_waiting_run_shows_its_position_and_is_cancelled(harness: Harness, look: Look) -> None:
    """From the form that sent it, and from the list of runs."""
    done = asyncio.Event()

    async def slow() -> str:
        await done.wait()
        return "done"

    harness.add("kit", tools={"slow": slow})
    await harness.open()
    await harness.settled("kit")
    first = asyncio.create_task(harness.run("kit", "slow"))
    await harness.until("kit", lambda health: health["in_flight"] == 1)
    second = asyncio.create_task(harness.run("kit", "slow"))
    await harness.until("kit", lambda health: health["queued"] == 1)
    page = await look("/plugins/kit/tools", allowed=("409",))
    form = card(page, "slow")
    await form.get_by_role("button", name="Run").click()
    await expect(form.get_by_text("number 2")).to_be_visible()
    await form.get_by_role("button", name="Cancel").click()
    await expect(form.locator(".verdict")).to_contain_text("cancel")

    await page.goto(f"{harness.client.base_url}#/runs")
    waiting = page.get_by_role("row", name="waiting, number 1")
    await waiting.get_by_role("button", name="Cancel").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    assert (await second).json()["ok"] is False
    await expect(waiting).to_have_count(0)
    await expect(page.get_by_role("row", name="running")).to_have_count(1)
    done.set()
    assert (await first).json()["result"] == "done"
    await expect(page.get_by_role("row", name="running")).to_have_count(0)


async def test_a_restart_is_confirmed_and_then_carried_out(harness: Harness, look: Look) -> None:
    harness.add("kit", tools={"count": count})
    await harness.open()
    await harness.settled("kit")
    page = await look("/plugins/kit")
    restart = page.get_by_role("button", name="Restart", exact=True)
    await restart.click()
    dialog = page.get_by_role("dialog", name="Restart kit?")
    await expect(dialog).to_be_visible()
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(restart).to_be_focused()
    assert (await harness.health("kit"))["generation"] == 1
    await restart.click()
    await dialog.get_by_role("button", name="Restart").click()
    await harness.until("kit", lambda health: health["generation"] == 2)
    await expect(page.locator(".meta")).to_contain_text("instance 2")
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("dialog", name="Stop kit?").get_by_role("button", name="Stop").click()
    await expect(page.locator(".title .badge")).to_have_text("UNAVAILABLE")
    await expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()


async def test_a_key_is_required_and_its_role_holds(harness: Harness, look: Look) -> None:
    """Nothing is shown without one; a viewer's shows everything, and offers nothing that would be refused."""
    store = KeyStore(harness.settings.state_dir)
    viewer, operator = store.add("eve", Role.VIEWER), store.add("ann", Role.OPERATOR)
    harness.add("kit", tools={"count": count})
    await harness.open()
    page = await look("/plugins/kit", allowed=("401", "403"))
    dialog = page.get_by_role("dialog", name="API key")
    await expect(dialog).to_contain_text("requires an API key")
    await dialog.get_by_label("Key").fill("wrong")
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("not known")
    await dialog.get_by_label("Key").fill(viewer)
    await dialog.get_by_role("button", name="Use this key").click()
    await expect(page.locator(".title .badge")).to_have_text("INITIALIZED")
    why = "The key “eve” may look, and not operate plugins."
    for command in ("Update", "Restart", "Park", "Stop"):
        await expect(page.get_by_role("button", name=command, exact=True)).to_be_disabled()
        await expect(page.get_by_role("button", name=command, exact=True)).to_have_accessible_description(why)
    await expect(page.get_by_text(why)).to_be_visible()
    await expect(page.get_by_label("Instances", exact=True)).to_be_disabled()
    await page.get_by_role("link", name="Tools").click()
    run = page.get_by_role("button", name="Run", exact=True)
    await expect(run).to_be_disabled()
    await expect(run).to_have_accessible_description("The key “eve” may look, and not run tools.")
    await page.get_by_role("button", name="API key").click()
    await dialog.get_by_label("Key").fill(operator)
    await page.keyboard.press("Enter")
    await expect(run).to_be_enabled()
    await expect(page.get_by_text(why)).to_be_hidden()
    await page.get_by_role("button", name="Restart", exact=True).click()
    await page.get_by_role("dialog", name="Restart kit?").get_by_role("button", name="Restart").click()
    await expect(page.locator(".meta")).to_contain_text("instance 2")
    assert await page.evaluate("Object.keys(localStorage).length") == 0


async def test_the_list_shows_latencies_memory_and_gpu_memory(lived_in: Harness, look: Look) -> None:
    page = await look("/")
    line = page.get_by_role("img", name="Latency of the last 24 runs")
    await expect(line).to_be_visible()
    assert len((await line.locator("polyline").get_attribute("points") or "").split()) == 24
    for name, words in (
        ("Memory of ocr", "412 MiB of 1 GiB"),
        ("Memory of motion-detector", "952 MiB of 1 GiB"),
        ("GPU memory of depth-map", "1 GiB of 80 GiB"),
    ):
        await expect(page.get_by_role("meter", name=name, exact=True)).to_have_attribute("aria-valuetext", words)
    await expect(page.get_by_role("meter", name="GPU memory of ocr")).to_have_count(0)


async def test_gpus_show_who_waits_for_one(harness: Harness, look: Look) -> None:
    harness.gpus.devices, harness.gpus.fault = (device(0),), None
    harness.engine.device_drivers = ("nvidia",)
    gate = asyncio.Event()
    harness.add("first", tools={"wait": gate.wait}, requires_gpu=True)
    await harness.open()
    await harness.settled("first")
    harness.add("second", tools={"wait": gate.wait}, requires_gpu=True)
    busy = asyncio.create_task(harness.run("first", "wait"))
    await harness.until("first", lambda health: health["in_flight"] == 1)
    page = await look("/gpus")
    waiting = page.get_by_role("region", name="Waiting for a GPU")
    await expect(page.locator(".gpus .card")).to_have_count(1)
    await expect(waiting).to_have_count(0)
    await harness.client.post("/v1/plugins/second/start")
    line = waiting.get_by_role("listitem")
    await expect(line).to_contain_text("second for a GPU, instance 1, since ")
    await expect(line).to_contain_text("first has it, and executes 1 run")
    await expect(line.get_by_role("link", name="second")).to_have_attribute("href", "#/plugins/second")
    gate.set()
    await busy
    await expect(waiting).to_have_count(0)


async def test_gpus_show_who_holds_them(lived_in: Harness, look: Look) -> None:
    page = await look("/gpus")
    held = page.locator(".gpus .card", has=page.get_by_role("link", name="depth-map"))
    await expect(held).to_have_count(1)
    await expect(held).to_contain_text("exclusive")
    await held.get_by_role("link").focus()
    lived_in.gpus.devices = tuple(replace(gpu, memory_used=7 * GIB) for gpu in lived_in.gpus.devices)
    await expect(held).to_contain_text("7 GiB of 80 GiB")
    await expect(held.get_by_role("link")).to_be_focused()
    await expect(page.locator(".gpus .card")).to_have_count(2)
