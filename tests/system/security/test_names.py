"""Names, queries and headers of requests: none reaches a file, the engine or a process; none harms a plugin."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.harness import Harness

pytestmark = pytest.mark.slow

MARK = "zq7marked"
"""In every name, so that it is recognized wherever it appears."""

PIECES = st.sampled_from(
    ["..", "/", "\\", "\0", "\n", "\r\n", "%", "%2e", "%00", "?", "#", ":", ";", "*", "~", "$HOME", "`id`", "|", "&",
     "'", '"', "<script>", "{name}", "{0}", " ", "\t", "é", "\u202e", "\U0001f40d", "\x7f", "-", "--rm", "-v/:/host",
     "A" * 300, "sha256:", "plugin-", "etc/passwd", "engine.sock", "reader"]
)  # fmt: skip
NAMES = st.lists(PIECES, max_size=6).map(lambda pieces: MARK.join(["", *pieces, ""]))
ROUTES = [
    ("GET", "/v1/plugins/{}/health"), ("GET", "/v1/plugins/{}/tools"), ("GET", "/v1/plugins/{}/logs"),
    ("GET", "/v1/plugins/{}/events"), ("GET", "/v1/plugins/{}/post-mortems"), ("POST", "/v1/plugins/{}/restart"),
    ("POST", "/v1/plugins/{}/start"), ("POST", "/v1/plugins/{}/stop"), ("POST", "/v1/plugins/{}/tools/read/run"),
    ("POST", "/v1/plugins/reader/tools/{}/run"), ("GET", "/v1/runs/{}"), ("GET", "/v1/runs/{}/result"),
    ("DELETE", "/v1/runs/{}"), ("GET", "/assets/{}"), ("GET", "/{}"), ("GET", "/v1/{}"),
]  # fmt: skip
MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

NOT_OUTSIDE = ("object.", "compile", "exec", "import", "code.", "marshal.", "sys.", "cpython")


class Watch:
    """Records every file, folder, process and connection that Python accesses by a name with the mark."""

    def __init__(self) -> None:
        self.touched: list[str] | None = None
        sys.addaudithook(self._hook)  # permanently: an audit hook cannot be removed

    @contextmanager
    def nothing_touched(self) -> Iterator[None]:
        touched = self.touched = list[str]()
        try:
            yield
        finally:
            self.touched = None
        assert touched == []

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.touched is not None and not event.startswith(NOT_OUTSIDE) and MARK in repr(arguments):
            self.touched.append(f"{event}{arguments!r}")


WATCH = Watch()


def test_the_watch_records_an_access() -> None:
    """Otherwise the other tests would prove nothing."""
    with pytest.raises(AssertionError, match="open"), WATCH.nothing_touched(), pytest.raises(OSError):
        Path(f"/nowhere/{MARK}").read_bytes()


@MANY
@given(name=NAMES, route=st.sampled_from(ROUTES), encoded=st.booleans())
async def test_no_name_of_a_request_reaches_a_file_or_the_engine(
    named_house: Harness, name: str, route: tuple[str, str], encoded: bool
) -> None:
    """It is compared with existing names and is none of them: 404, and nothing was accessed."""
    method, path = route
    target = path.format(quote(name, safe="") if encoded else quote(name, safe="/"))
    before = len(await named_house.containers("reader"))
    if path.startswith("/assets/"):
        answer = await named_house.client.request(method, target)  # serves files, but of its folder alone
        assert "root:" not in answer.text
    else:
        with WATCH.nothing_touched():
            answer = await named_house.client.request(method, target)
    assert answer.status_code in (404, 405), (target, answer.text)
    assert answer.json()["ok"] is False
    assert len(answer.content) < 4000
    assert len(await named_house.containers("reader")) == before


HEADER = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n\0"), max_size=80)


@MANY
@given(content_type=HEADER, accept=HEADER, query=st.binary(max_size=60), body=st.binary(max_size=60))
async def test_no_header_or_query_harms_the_plugin(
    named_house: Harness, content_type: str, accept: str, query: bytes, body: bytes
) -> None:
    """Nonsense is the caller's mistake: the plugin goes on, with the same instance."""
    url = httpx.URL(str(named_house.client.base_url)).copy_with(
        raw_path=b"/v1/plugins/reader/tools/read/run?" + quote(query, safe="=&;,/:@%~!$'()*+?-._").encode()
    )
    headers = [(b"content-type", sendable(content_type)), (b"accept", sendable(accept))]
    answer = await named_house.client.post(url, headers=headers, content=body)
    assert answer.status_code in (200, 400, 415, 422), answer.text
    health = await named_house.health("reader")
    assert (health["reason_code"], health["error_count"], health["generation"]) == (None, 0, 1)


def sendable(text: str) -> bytes:
    """The text without control characters, which no client may send."""
    return (
        "".join(letter for letter in text if letter == "\t" or (letter >= " " and letter != "\x7f"))
        .strip()
        .encode("latin-1")
    )


@pytest.fixture
async def named_house(harness: Harness) -> Harness:
    harness.add("reader", tools={"read": lambda **_: 1})
    await harness.open()
    await harness.settled("reader")
    return harness
