"""What a caller sends: uploads, bodies that are too large, and queries and types of any kind."""

import base64
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from test_tool_runner.ready_plugins import double, ready


async def test_an_uploaded_file_arrives_byte_for_byte(harness: Harness) -> None:
    """As a raw body, in a form, as base64 in JSON, and in chunks of unknown length."""
    picture = bytes(range(256)) * 4000

    def measure(image: bytes, scale: int = 1) -> list[int]:
        return [len(image) * scale, sum(image)]

    async def chunks() -> Any:
        for start in range(0, len(picture), 100_000):
            yield picture[start : start + 100_000]

    harness.add("reader", tools={"measure": measure})
    await ready(harness, "reader")
    route, expected = "/v1/plugins/reader/tools/measure/run", [2 * len(picture), sum(picture)]
    raw = {"content-type": "image/png"}
    answers = [
        await harness.client.post(route, params={"scale": 2}, content=picture, headers=raw),
        await harness.client.post(route, params={"scale": 2}, content=chunks(), headers=raw),
        await harness.client.post(route, files={"image": ("a.png", picture)}, data={"scale": "2"}),
        await harness.run("reader", "measure", image=base64.b64encode(picture).decode(), scale=2),
    ]
    assert [answer.json()["result"] for answer in answers] == [expected] * 4


async def test_a_body_over_the_limit_is_refused(harness: Harness) -> None:
    """Announced or not, before the plugin has to bear it; the plugin goes on."""

    def measure(image: Path) -> int:
        return image.stat().st_size

    async def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 100_000

    harness.add("reader", tools={"measure": measure}, limits={"scratch": "1MiB"})
    await ready(harness, "reader")
    route = "/v1/plugins/reader/tools/measure/run"
    announced = await harness.client.post(route, content=b"x" * 3_000_000, headers={"content-type": "image/png"})
    streamed = await harness.client.post(route, content=chunks(), headers={"content-type": "image/png"})
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert {announced.json()["error_type"], streamed.json()["error_type"]} == {"TooLarge"}
    assert "limits.scratch" in announced.json()["error"]
    health = await harness.health("reader")
    assert (health["state"] in {"INITIALIZED", "RUNNING"}, health["error_count"]) == (True, 0)
    small = await harness.client.post(route, content=b"x" * 1000, headers={"content-type": "image/png"})
    assert small.json()["result"] == 1000


@pytest.mark.parametrize("query", ["a=%zz", "%00", "a=b=c&&&", "%FF", "[", "a#b", "+" * 500])
async def test_no_query_hurts_the_plugin(harness: Harness, query: str) -> None:
    """It is passed on as it is, or refused."""
    harness.add("reader", tools={"double": double})
    await ready(harness, "reader")
    await harness.client.post(f"/v1/plugins/reader/tools/double/run?{query}", json={"number": 1})
    assert (await harness.run("reader", "double", number=1)).status_code == 200


@pytest.mark.parametrize("content_type", ["", "nonsense", "multipart/form-data", "text/html; charset=\x7f", "a/b; c=ü"])
async def test_no_content_type_hurts_the_plugin(harness: Harness, content_type: str) -> None:
    """Whatever the caller calls its body."""
    harness.add("reader", tools={"double": double})
    await ready(harness, "reader")
    headers = {"content-type": content_type.encode()}
    answer = await harness.client.post("/v1/plugins/reader/tools/double/run", content=b"x", headers=headers)  # type: ignore[arg-type]
    assert 400 <= answer.status_code < 500
    assert (await harness.run("reader", "double", number=1)).status_code == 200
