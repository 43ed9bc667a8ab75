"""Bodies and values of callers, by the whole orchestrator and the real runtime: none of them ends a plugin."""

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from support.real_runtime import RealRuntime
from test_tool_runner.ready_plugins import ready

SOURCE = """
    import dataclasses, hashlib
    from pathlib import Path
    from plugin_runtime import Upload, tool

    @dataclasses.dataclass
    class Box:
        x: int

        def __post_init__(self):
            assert self.x < 100, "x must be below 100"
            1 / (self.x - 50)

    class Plugin:
        def validate(self): pass

        @tool
        def box(self, b: Box, more: list[Box] = []) -> int:
            return b.x

        @tool
        def size(self, image: bytes) -> list:
            return [len(image), hashlib.sha256(image).hexdigest()]

        @tool
        def stored(self, video: Path) -> list:
            return [video.stat().st_size, hashlib.sha256(video.read_bytes()).hexdigest()]

        @tool
        def several(self, files: list[Upload]) -> list:
            return [[file.filename, file.content_type, file.size] for file in files]
"""
DATA = bytes(range(256)) * 8192  # 2 MiB
ROUTE = "/v1/plugins/reader/tools/{}/run"


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(tmp_path) as harness:
        harness.add("reader", program=RealRuntime(SOURCE), limits={"scratch": "3MiB", "timeout": "20s"})
        await ready(harness, "reader")
        yield harness


async def healthy(harness: Harness) -> bool:
    health = await harness.health("reader")
    return health["state"] in {"INITIALIZED", "RUNNING"} and health["error_count"] == 0


@pytest.mark.parametrize("arguments", [{"b": {"x": 100}}, {"b": {"x": 50}}, {"b": {"x": 1}, "more": [{"x": 50}]}])
async def test_a_value_that_makes_an_authors_type_raise_is_the_callers_mistake(
    reader: Harness, arguments: dict[str, Any]
) -> None:
    """At once, with the parameter and what was raised; the plugin goes on, and counts no error."""
    answer = await reader.run("reader", "box", **arguments)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "InvalidArguments"
    assert "parameter 'b'" in answer.json()["error"] or "parameter 'more' (at more[0])" in answer.json()["error"]
    assert "Error" in answer.json()["error"]
    assert await healthy(reader)
    assert (await reader.run("reader", "box", b={"x": 1})).json()["result"] == 1


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_body_is_decompressed(reader: Harness, coding: str, compress: Any) -> None:
    """JSON, a raw upload and a form; short, long and in chunks."""

    async def chunks() -> AsyncIterator[bytes]:
        body = compress(DATA)
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    headers = {"content-encoding": coding, "content-type": "image/png"}
    expected = [len(DATA), hashlib.sha256(DATA).hexdigest()]
    for tool in ("size", "stored"):
        for content in (compress(DATA), chunks()):
            answer = await reader.client.post(ROUTE.format(tool), content=content, headers=headers)
            assert answer.json()["result"] == expected
    body = compress(json.dumps({"b": {"x": 3}}).encode())
    headers["content-type"] = "application/json"
    assert (await reader.client.post(ROUTE.format("box"), content=body, headers=headers)).json()["result"] == 3
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + DATA + b"\r\n--b--\r\n"
    headers["content-type"] = "multipart/form-data; boundary=b"
    answer = await reader.client.post(ROUTE.format("size"), content=compress(form), headers=headers)
    assert answer.json()["result"] == expected


@pytest.mark.parametrize("size", [1000, 1_000_000], ids=["held", "spooled"])
async def test_a_compressed_body_of_an_asynchronous_run_is_decompressed(reader: Harness, size: int) -> None:
    """Also one that is stored on disk until its run starts."""
    data = random.Random(1).randbytes(size)
    headers = {"content-encoding": "gzip", "content-type": "image/png", "prefer": "respond-async"}
    accepted = await reader.client.post(ROUTE.format("size"), content=gzip.compress(data), headers=headers)
    assert accepted.status_code == 202
    result = await reader.client.get(f"/v1/runs/{accepted.json()['run_id']}/result", params={"wait": "20"})
    assert result.json()["result"][0] == size


@pytest.mark.parametrize("tool", ["size", "stored", "box"])
async def test_a_bomb_is_too_large(reader: Harness, tool: str) -> None:
    """A body is measured by what it is decompressed."""
    content_type = "application/json" if tool == "box" else "image/png"
    headers = {"content-encoding": "gzip", "content-type": content_type}
    body = gzip.compress(bytes(64 * 1024 * 1024))
    answer = await reader.client.post(ROUTE.format(tool), content=body, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "TooLarge")
    assert await healthy(reader)


async def test_a_body_that_is_not_what_it_says_is_a_bad_request(reader: Harness) -> None:
    """Garbage, and one that is cut off."""
    headers = {"content-encoding": "gzip", "content-type": "image/png"}
    for body in (b"garbage", gzip.compress(DATA)[:-9]):
        answer = await reader.client.post(ROUTE.format("size"), content=body, headers=headers)
        assert (answer.status_code, answer.json()["error_type"]) == (400, "BadRequest")
    assert await healthy(reader)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, deflate", "nonsense", "x-deflate"])
async def test_another_coding_is_refused_at_once_with_those_there_are(reader: Harness, coding: str) -> None:
    """With the header that names them (RFC 7694)."""
    headers = {"content-encoding": coding, "content-type": "image/png"}
    answer = await reader.client.post(ROUTE.format("size"), content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (415, "UnsupportedMediaType")
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"
    assert repr(coding) in answer.json()["error"]


async def test_several_files_come_with_their_names_and_types(reader: Harness) -> None:
    """In order; a raw body has its name from Content-Disposition."""
    files = [("files", ("b.nii.gz", b"12", "application/gzip")), ("files", ("a.png", b"1", "image/png"))]
    answer = await reader.client.post(ROUTE.format("several"), files=files)
    assert answer.json()["result"] == [["b.nii.gz", "application/gzip", 2], ["a.png", "image/png", 1]]
    headers = {"content-type": "audio/mpeg", "content-disposition": 'attachment; filename="a b.mp3"'}
    answer = await reader.client.post(ROUTE.format("several"), content=b"123", headers=headers)
    assert answer.json()["result"] == [["a b.mp3", "audio/mpeg", 3]]
