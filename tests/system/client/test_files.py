"""Files in results through the whole orchestrator: read, saved, resumed after a break, removed with the run."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from support.giving_files import WHOLE_FILM, noise, open_with_giver
from support.harness import Harness

from orchestrator.client import AsyncResultFile, Client, Item, NotFound, ResultFile

pytestmark = pytest.mark.slow

FILES = (ResultFile, AsyncResultFile)


@pytest.fixture
async def call(harness: Harness, make: Any) -> Any:
    await open_with_giver(harness)
    return make(str(harness.client.base_url))


async def test_a_picture_is_read_and_saved(call: Any, tmp_path: Path) -> None:
    picture = await call("run", "giver", "picture")
    assert isinstance(picture, FILES)
    assert (picture.name, picture.media_type) == ("result.png", "image/png")
    content = await call.of(picture, "read")
    assert len(content) == picture.size and Image.open(io.BytesIO(content)).size == (120, 80)
    saved = await call.of(picture, "save", tmp_path)
    assert saved == tmp_path / "result.png" and saved.read_bytes() == content


async def test_files_of_a_result_are_got_again_by_the_run(call: Any) -> None:
    envelope = await call("call", "giver", "report")
    result = envelope["result"]
    files = [*result["pages"], result["table"], result["film"]]
    assert [file.media_type for file in files] == ["image/png", "image/png", "text/csv", "video/mp4"]
    assert envelope["files"] == files and result["count"] == 2
    again = await call.of(call.client.handle(envelope["run_id"]), "result", 10)
    assert again == result
    assert await call.of(again["table"], "read") == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    ("name", "saved"),
    [("Übersicht ä.txt", "Übersicht_ä.txt"), ("写真/北京.txt", "北京.txt"), ("हिन्दी.txt", "हिन्दी.txt")],
)
async def test_a_name_keeps_its_letters_of_any_script(call: Any, tmp_path: Path, name: str, saved: str) -> None:
    file = await call("run", "giver", "named", name=name)
    assert file.name == saved and file["url"].isascii()
    path = await call.of(file, "save", tmp_path)
    assert (path, path.read_bytes()) == (tmp_path / saved, name.encode())


async def test_bytes_are_a_file(call: Any) -> None:
    raw = await call("run", "giver", "raw", size=300_000)
    assert isinstance(raw, FILES)
    assert await call.of(raw, "read") == noise(300_000)


async def test_a_file_of_an_item_is_there_while_the_run_goes_on(call: Any, tmp_path: Path) -> None:
    """Each is saved before the tool yields the next one."""
    until = tmp_path / "saved"
    if isinstance(call.client, Client):

        def follow() -> list[bytes]:
            found = []
            for event in call.client.stream("giver", "frames", until=str(until)):
                if isinstance(event, Item):
                    file = event.data["frame"] if isinstance(event.data, dict) and "frame" in event.data else event.data
                    found.append(file.read())
                    until.touch()
            return found

        found = await asyncio.to_thread(follow)
    else:
        found = []
        async for event in call.client.stream("giver", "frames", until=str(until)):
            if isinstance(event, Item):
                file = event.data["frame"] if isinstance(event.data, dict) and "frame" in event.data else event.data
                found.append(await file.read())
                until.touch()
    assert Image.open(io.BytesIO(found[0])).size == (50, 40)
    assert found[1] == b"the end"


@pytest.mark.parametrize(("tool", "content"), [("parts", noise(100_000)), ("film", WHOLE_FILM)])
async def test_parts_have_their_content(call: Any, tool: str, content: bytes) -> None:
    events = await call("stream", "giver", tool)
    assert b"".join(event.content for event in events if isinstance(event, Item)) == content


async def test_what_only_looks_like_a_file_is_a_value(call: Any) -> None:
    assert type(await call("run", "giver", "forges")) is dict


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncIterator[Harness]:
    (tmp_path / "host").mkdir()
    async with Harness(tmp_path / "host", results_max_age=timedelta(milliseconds=1)) as harness:
        await open_with_giver(harness)
        yield harness


async def test_a_file_whose_result_has_expired_is_not_found(forgetful: Harness, make: Any, tmp_path: Path) -> None:
    call = make(str(forgetful.client.base_url))
    picture = await call("run", "giver", "picture")
    with pytest.raises(NotFound):
        await call.of(picture, "save", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


class Cutting(httpx.HTTPTransport):
    """Breaks the connection of a file's request after some bytes, as often as given."""

    def __init__(self, *after: int) -> None:
        super().__init__()
        self._after = list(after)
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if "/files/" in request.url.path:
            self.ranges.append(request.headers.get("range"))
            self.statuses.append(response.status_code)
            if self._after:
                response.stream = _Cut(response.stream, self._after.pop(0))
        return response


class _Cut(httpx.SyncByteStream):
    def __init__(self, stream: Any, after: int) -> None:
        self._stream = stream
        self._left = after

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            yield chunk[: self._left]
            self._left -= len(chunk)
            if self._left <= 0:
                raise httpx.ReadError("cut")

    def close(self) -> None:
        self._stream.close()


async def test_a_broken_connection_is_taken_up_by_a_range(harness: Harness, tmp_path: Path) -> None:
    await open_with_giver(harness)
    size = 3_000_000
    transport = Cutting(1_000_000, 500_000)

    def save() -> None:
        with Client(str(harness.client.base_url), transport=transport) as client:
            client.run("giver", "large", size=size).save(tmp_path / "large.bin")

    await asyncio.to_thread(save)
    assert (tmp_path / "large.bin").read_bytes() == noise(size)
    assert transport.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert transport.statuses == [200, 206, 206]
