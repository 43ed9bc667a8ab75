"""Every error, on every route and ahead of them, has the envelope for its body."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.harness import Harness

FIELDS = {
    "ok", "result", "error", "error_type", "reason_code", "source", "plugin", "tool", "run_id", "execution_time_ms",
    "files",
}  # fmt: skip
UNDESCRIBED = ["/", "/assets/app.js", "/assets/nothing.js", "/docs", "/docs-assets/nothing.js", "/openapi.json"]
"""Routes that the description of the API does not list."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
NAMES = ["reader", "nothing", "%ff", "%zz", "a%2fb", "%00", "x" * 5000]
RUN = "/v1/plugins/reader/tools/read/run"
JSON = {"Content-Type": "application/json"}
HEAD = b"Host: localhost\r\nConnection: close\r\n"


@pytest.fixture
async def client(harness: Harness) -> httpx.AsyncClient:
    harness.add("reader", tools={"read": lambda: "text"}, limits={"scratch": "1MiB"})
    client = await harness.open()
    await harness.settled("reader")
    return client


def check(answer: httpx.Response) -> None:
    about = (answer.request.method, str(answer.request.url)[:100], answer.status_code, answer.text[:200])
    if answer.status_code < 400 or (answer.status_code, answer.request.url.path) == (503, "/readyz"):
        return
    assert answer.headers["Content-Type"] == "application/json", about
    if answer.request.method == "HEAD":
        assert answer.content == b"", about
        return
    check_envelope(answer.json(), about)


def check_envelope(envelope: dict[str, Any], about: object) -> None:
    assert envelope.keys() == FIELDS, about
    assert envelope["ok"] is False, about
    assert envelope["error"] and envelope["error_type"], about


def paths(document: dict[str, Any]) -> Iterator[str]:
    """Each route with each name for its braces."""
    for path in (*document["paths"], *UNDESCRIBED, "/nothing", "/v1/plugins/", "//", "/v1"):
        parts = path.split("/")
        for name in NAMES if "{" in path else [""]:
            yield "/".join(name if part.startswith("{") else part for part in parts)


@pytest.mark.slow
async def test_on_every_route_by_every_method(harness: Harness, client: httpx.AsyncClient) -> None:
    assert harness.app is not None
    seen: dict[int, int] = {}
    for path, method in itertools.product(paths(harness.app.openapi()), METHODS):
        if path == "/v1/plugins/reader/stop":
            continue
        # One that streams is closed at its head.
        async with client.stream(method, path, headers={"Range": "bytes=99999999-"}) as answer:
            if answer.status_code >= 400:
                await answer.aread()
                check(answer)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert {404, 405, 416} <= seen.keys()
    assert 500 not in seen


@pytest.mark.parametrize(
    ("headers", "content", "status", "error_type"),
    [
        (JSON, b" " * 3 * 1024**2, 413, "TooLarge"),
        ({"Content-Encoding": "nonsense"}, b"{}", 415, "UnsupportedMediaType"),
        ({**JSON, "X-Run-Id": "x"}, b"{}", 422, "InvalidRunId"),
        ({**JSON, "Accept": "image/png"}, b"{}", 406, "NotAcceptable"),
        ({**JSON, "Host": "evil.example"}, b"{}", 403, "ForeignHost"),
    ],
)
async def test_of_a_run(
    client: httpx.AsyncClient, headers: dict[str, str], content: bytes, status: int, error_type: str
) -> None:
    answer = await client.post(RUN, headers=headers, content=content)
    assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
    check(answer)


async def test_what_nothing_is_taken_of_is_no_success_and_is_not_lost(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUN, headers={**JSON, "Accept": "image/png"}, content=b"{}")
    assert (answer.status_code, answer.json()["ok"], answer.json()["result"]) == (406, False, "text")
    assert "'image/png'" in answer.json()["error"]
    assert (await client.get(f"/v1/runs/{answer.headers['X-Run-Id']}")).json()["outcome"] == "ok"


@pytest.mark.parametrize(
    "malformed", ["x", "items=0-1", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=0-1;2-3"]
)
async def test_a_malformed_range_is_ignored(client: httpx.AsyncClient, malformed: str) -> None:
    """As HTTP wants it; above all of a unit that is not understood."""
    whole = await client.get("/assets/app.js")
    answer = await client.get("/assets/app.js", headers={"Range": malformed})
    assert (answer.status_code, answer.content) == (200, whole.content)
    part = await client.get("/assets/app.js", headers={"Range": "bytes=0-3, 10-"})
    assert part.status_code == 206


async def test_a_range_that_a_file_does_not_have_says_how_long_it_is(client: httpx.AsyncClient) -> None:
    size = len((await client.get("/assets/app.js")).content)
    answer = await client.get("/assets/app.js", headers={"Range": f"bytes={size}-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
    assert answer.json()["error_type"] == "RangeNotSatisfiable"
    assert str(size) in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/plugins/%zz/health HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"GET /v1/plugins/\xff/health HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
        (b"GET nothing HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
        (b"CONNECT a:1 HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST /v1/plugins HTTP/1.1\r\n" + HEAD + b"Content-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + HEAD + b"X: y\r\n" * 200 + b"\r\n", 431),
    ],
)
async def test_ahead_of_the_routes(client: httpx.AsyncClient, request_bytes: bytes, status: int) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(request_bytes)
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.split()[1] == str(status).encode()
    assert b"content-type: application/json" in head
    check_envelope(json.loads(body), head)
