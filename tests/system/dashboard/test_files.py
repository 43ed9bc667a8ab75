"""Files in results: shown where browsers show them, saved by a link, fetched with the key, and never run as a page."""

import asyncio
import base64
import hashlib
import json
import re
import struct
import wave
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import pytest
from playwright.async_api import Page, Request, Route, expect
from support.giving_files import WHOLE_FILM, open_with_giver
from support.harness import Harness
from system.dashboard.scene import sample

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role

pytestmark = pytest.mark.slow

Look = Callable[..., Awaitable[Page]]
PICTURE = sample("motion_detector", "cup-first.png").read_bytes()
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" onload="document.title=1">'
    b'<script>fetch("/v1/plugins")</script><rect width="40" height="30" fill="red"/></svg>'
)
HTML = b"<script>document.title='taken over'</script>"
MIB = 1024**2


def sound() -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as writing:
        writing.setnchannels(1)
        writing.setsampwidth(2)
        writing.setframerate(8000)
        writing.writeframes(struct.pack("<800h", *range(800)))
    return file.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Answers:
    """What the run's route and the files' route answer to the page."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.result: Any = None
        self.items: list[Any] | None = None
        self.listed: list[Any] = []
        self.fetched: list[Request] = []
        self.run = "0" * 32
        self.delay = 0.0

    def file(self, name: str, media_type: str, content: bytes, *, size: int | None = None, listed: bool = True) -> Any:
        self.files[name] = content
        digest = hashlib.sha256(content).hexdigest()
        about = {"file": name, "media_type": media_type, "size": len(content) if size is None else size}
        reference = {**about, "sha256": digest, "url": f"/v1/runs/{self.run}/files/{name}"}
        if listed:
            self.listed.append(reference)
        return reference

    async def answer_run(self, route: Route) -> None:
        await asyncio.sleep(self.delay)
        run = route.request.headers["x-run-id"]
        envelope = {"ok": True, "result": self.result, "execution_time_ms": 3.0, "run_id": run, "files": self.listed}
        if self.items is None:
            await route.fulfill(body=self._of(run, envelope), content_type="application/json")
            return
        lines = [{"event": "item", "data": item} for item in self.items] + [{"event": "end", **envelope}]
        body = "".join(self._of(run, line) + "\n" for line in lines)
        await route.fulfill(body=body, content_type="application/x-ndjson")

    async def answer_file(self, route: Route) -> None:
        self.fetched.append(route.request)
        content = self.files[route.request.url.rpartition("/")[2]]
        await route.fulfill(body=content, headers={"Content-Type": "application/octet-stream"})

    def _of(self, run: str, content: Any) -> str:
        return json.dumps(content).replace(self.run, run)


def whole() -> Any:
    """Returns something."""


def streamed() -> Any:
    """Yields something."""
    yield 1


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def opened(harness: Harness, look: Look, answers: Answers) -> Callable[..., Awaitable[Any]]:
    """Opens the page of a plugin with one tool, `whole` or `streamed`, runs it, and gives its card."""

    async def opened(tool: Any = whole, *, key: str = "", schema: Any = None, allowed: tuple[str, ...] = ()) -> Any:
        harness.add("kit", tools={tool.__name__: tool})
        await harness.open()
        page = await look("/plugins", allowed=allowed)
        if key:
            await page.evaluate("(key) => sessionStorage.setItem('orchestrator-api-key', key)", key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        while not (tools := (await harness.client.get("/v1/plugins/kit/tools", headers=headers)).json()):
            pass
        described = [{**tools[0], "output_schema": schema}]
        await page.route("**/v1/plugins/kit/tools", lambda route: route.fulfill(json=described))
        await page.route("**/tools/*/run", answers.answer_run)
        await page.route("**/files/*", answers.answer_file)
        # The page asks for a run that takes over a second, and the orchestrator has no such run.
        await page.route(re.compile("/v1/runs/[0-9a-f]+$"), lambda route: route.fulfill(json={"state": "running"}))
        await page.goto(f"{harness.client.base_url}#/plugins/kit/tools")
        await page.reload()
        card = page.get_by_role("article", name=tool.__name__)
        await card.get_by_role("button", name="Run").click()
        await expect(card.locator(".verdict")).to_contain_text("Done")
        return card

    return opened


async def width_of(picture: Any) -> int:
    await expect(picture).to_be_visible()
    width: int = await picture.evaluate("async (picture) => (await picture.decode(), picture.naturalWidth)")
    return width


async def saved(page: Page, link: Any) -> bytes:
    async with page.expect_download() as download:
        await link.click()
    return (await (await download.value).path()).read_bytes()


async def test_pictures_videos_and_sounds_are_shown_wherever_they_stand(opened: Any, answers: Answers) -> None:
    video = sample("motion_detector", "cup.mp4").read_bytes()
    answers.result = {
        "pages": [answers.file("page.png", "image/png", PICTURE), answers.file("icon.svg", "image/svg+xml", SVG)],
        "deep": {"er": [{"film": answers.file("film.mp4", "video/mp4", video)}]},
        "speech": answers.file("speech.wav", "audio/wav", sound()),
        "table": answers.file("table.csv", "text/csv", b"1,2\n"),
    }
    card = await opened()
    assert await width_of(card.get_by_role("img", name="page.png")) > 100
    assert await width_of(card.get_by_role("img", name="icon.svg")) == 40
    await expect(card.locator("video")).to_be_visible()
    await expect(card.locator("audio")).to_be_visible()
    links = card.get_by_role("link", name="Save")
    await expect(links).to_have_text(
        ["Save page.png", "Save icon.svg", "Save film.mp4", "Save speech.wav", "Save table.csv"]
    )
    await expect(card.locator(".file").last).to_contain_text("4 B")
    shown = json.loads(await card.get_by_role("region", name="Result as JSON").inner_text())
    await expect(links.last).to_have_attribute("href", f".{shown['table']['url']}")  # below whatever path the page is
    await expect(links.last).to_have_attribute("download", "table.csv")
    # What is no picture, video or sound is fetched only to be saved.
    assert "table.csv" not in [request.url.rpartition("/")[2] for request in answers.fetched]


async def test_a_page_that_a_plugin_returns_is_saved_and_not_opened(opened: Any, answers: Answers) -> None:
    answers.result = [answers.file("a.html", "text/html", HTML), {"media_type": "text/html", "data": encoded(HTML)}]
    card = await opened()
    title = await card.page.title()
    await expect(card.get_by_role("link", name="Save a.html")).to_have_attribute("download", "a.html")
    assert await saved(card.page, card.get_by_role("button", name="Save result-2.html")) == HTML
    assert await card.page.title() == title and len(card.page.context.pages) == 1
    await expect(card.locator("iframe, object, embed")).to_have_count(0)


async def test_files_are_fetched_with_the_key(opened: Any, answers: Answers, harness: Harness) -> None:
    key = KeyStore(harness.settings.state_dir).add("ann", Role.OPERATOR)
    answers.result = [answers.file("page.png", "image/png", PICTURE), answers.file("a.csv", "text/csv", b"1")]
    card = await opened(key=key, allowed=("401",))
    assert await width_of(card.get_by_role("img", name="page.png")) > 100
    assert await saved(card.page, card.get_by_role("link", name="Save a.csv")) == b"1"
    assert {(await request.all_headers()).get("authorization") for request in answers.fetched} == {f"Bearer {key}"}


async def test_a_large_file_is_fetched_when_it_is_asked_for(opened: Any, answers: Answers) -> None:
    answers.result = answers.file("film.png", "image/png", PICTURE, size=200 * MIB)
    card = await opened()
    await expect(card.locator(".file")).to_contain_text("200 MiB")
    assert answers.fetched == []
    await card.get_by_role("button", name="Show").click()
    await expect(card.get_by_text("did not arrive completely")).to_be_visible()
    assert len(answers.fetched) == 1


async def test_of_many_files_the_first_are_shown(opened: Any, answers: Answers) -> None:
    answers.result = [answers.file(f"{number}.png", "image/png", PICTURE) for number in range(40)]
    card = await opened()
    await expect(card.locator(".file")).to_have_count(40)
    await expect(card.locator("figure img")).to_have_count(24)
    await card.get_by_role("button", name="Show").last.click()
    assert await width_of(card.get_by_role("img", name="39.png")) > 100


async def test_a_file_that_is_gone_says_so_where_it_would_be(opened: Any, answers: Answers) -> None:
    answers.result = [answers.file("a.png", "image/png", PICTURE), 1]

    async def gone(route: Route) -> None:
        await route.fulfill(status=404, json={"ok": False, "error": "The run has no such file."})

    answers.answer_file = gone  # type: ignore[method-assign]
    card = await opened(allowed=("404",))
    await expect(card.locator(".file")).to_contain_text("The run has no such file.")


async def test_what_is_not_listed_is_not_fetched(opened: Any, answers: Answers) -> None:
    answers.result = answers.file("a.png", "image/png", PICTURE, listed=False)
    card = await opened()
    await expect(card.get_by_role("region", name="Result as JSON")).to_contain_text('"a.png"')
    await expect(card.locator(".file")).to_have_count(0)
    assert answers.fetched == []


async def test_files_in_items_are_shown_as_they_come(opened: Any, answers: Answers) -> None:
    own = answers.file("a.png", "image/png", PICTURE)
    foreign = {**own, "url": own["url"].replace("0" * 32, "f" * 32)}
    answers.items = [{"frame": 1, "picture": own}, {"frame": 2, "picture": foreign}]
    card = await opened(streamed)
    assert await width_of(card.get_by_role("img", name="a.png")) > 100
    await expect(card.locator(".file")).to_have_count(1)
    assert len(answers.fetched) == 1


BASE64 = {"type": "string", "contentEncoding": "base64"}
NOISE = bytes(range(256)) * 20


@pytest.mark.parametrize(
    ("result", "schema", "names"),
    [
        (encoded(PICTURE), None, ["result.png"]),
        (encoded(NOISE), BASE64, ["result.bin"]),
        ({"media_type": "image/png", "data": encoded(PICTURE), "n": 1}, None, ["result.png"]),
        ([{"media_type": "image/png", "data": encoded(PICTURE)}] * 2, None, ["result-1.png", "result-2.png"]),
        ({"pages": [{"scan": encoded(PICTURE)}], "n": 1}, None, ["scan.png"]),
        ({"scan": "data:image/png;base64," + encoded(PICTURE)}, None, ["scan.png"]),
    ],
)
async def test_no_base64_is_printed(opened: Any, answers: Answers, result: Any, schema: Any, names: list[str]) -> None:
    answers.result = result
    card = await opened(schema=schema)
    await expect(
        card.get_by_role("button", name="Save result", disabled=False).or_(card.locator(".file button"))
    ).not_to_have_count(0)
    await expect(card.locator(".file").get_by_role("button", name="Save")).to_have_text(
        [f"Save {name}" for name in names]
    )
    assert len(await card.inner_text()) < 1000
    first = card.locator(".file").get_by_role("button", name="Save").first
    assert await saved(card.page, first) == (NOISE if schema else PICTURE)
    if schema is None:
        assert await width_of(card.locator("figure img").first) > 100


@pytest.mark.parametrize("stored", [False, True], ids=["streamed", "collected"])
@pytest.mark.parametrize(
    ("typed", "schema", "content", "name"),
    [
        (True, None, PICTURE, "result.png"),
        (False, None, PICTURE, "result.png"),
        (False, BASE64, NOISE, "result.bin"),
    ],
)
async def test_parts_are_one_file(
    opened: Any, answers: Answers, *, stored: bool, typed: bool, schema: Any, content: bytes, name: str
) -> None:
    parts = [encoded(part) for part in (content[:3000], content[3000:4999], content[4999:])]
    items = [{"media_type": "image/png", "data": part, "n": 1} for part in parts] if typed else parts
    answers.items, answers.result = (None, items) if stored else (items, None)
    card = await opened(streamed, schema=schema)
    save = card.locator(".file").get_by_role("button", name="Save")
    await expect(save).to_have_text([f"Save {name}"])
    assert await saved(card.page, save) == content
    assert len(await card.inner_text()) < 1500


async def test_whole_pictures_that_are_yielded_are_each_shown(opened: Any, answers: Answers) -> None:
    answers.items = [encoded(PICTURE), encoded(PICTURE), {"n": 1}, encoded(PICTURE)]
    card = await opened(streamed)
    await expect(card.locator("figure img")).to_have_count(3)


async def test_a_run_that_takes_its_time_is_watched(opened: Any, answers: Answers) -> None:
    answers.result, answers.delay = "Adam", 1.5
    card = await opened()
    await expect(card.get_by_role("region", name="Text of the result")).to_have_text("Adam")


@pytest.mark.parametrize("text", ["Adam", "a" * 400, "Hello, Ada!"])
async def test_a_text_is_a_text(opened: Any, answers: Answers, text: str) -> None:
    answers.result = text
    card = await opened()
    await expect(card.get_by_role("region", name="Text of the result")).to_have_text(text)
    await expect(card.locator(".file")).to_have_count(0)


async def test_files_of_a_real_plugin_are_shown_and_saved(harness: Harness, look: Look) -> None:
    """With the orchestrator's own route."""
    await open_with_giver(harness)
    page = await look("/plugins/giver/tools")
    report = page.get_by_role("article", name="report")
    await report.get_by_role("button", name="Run").click()
    await expect(report.locator(".verdict")).to_contain_text("Done")
    assert await width_of(report.locator("figure img").first) == 40
    assert await saved(page, report.get_by_role("link", name="Save table.csv")) == b"a,b\n1,2\n"
    film = page.get_by_role("article", name="film")
    await film.get_by_role("button", name="Run").click()
    await expect(film.locator(".verdict")).to_contain_text("Done")
    assert await saved(page, film.get_by_role("button", name="Save result.mp4")) == WHOLE_FILM
    await expect(page.get_by_role("article", name="picture")).to_contain_text("returns File")
