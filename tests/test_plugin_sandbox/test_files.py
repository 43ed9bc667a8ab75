"""Files of a result: fetched from the container, bounded, counted by us, put into the result as references."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.raw_runtime import Answer, http, http_stream, raw_instance
from test_plugin_sandbox.sandbox_calls import CALL, sandbox

from orchestrator.lifecycle import ReasonCode
from orchestrator.sandbox.answers import AnnouncedFile
from orchestrator.sandbox.call import Outcome, OutputFile, RunResult, StorageError
from orchestrator.sandbox.deadline import Deadline
from orchestrator.sandbox.file_fetcher import FileFetcher
from orchestrator.sandbox.sandbox_runner import ResultSink

MARKS = [f"plugin-file:{number:032x}" for number in range(3)]


class Store:
    """A `FileStore` in memory. `pause`: seconds that it takes for each chunk."""

    def __init__(self, *, pause: float = 0, full: bool = False) -> None:
        self.contents: dict[str, bytes] = {}
        self.pause = pause
        self.full = full

    async def write(self, name: str, media_type: str, size: int, chunks: AsyncIterator[bytes]) -> OutputFile:
        if self.full:
            raise StorageError("The disk is full.")
        content = b""
        async for chunk in chunks:
            content += chunk
            await asyncio.sleep(self.pause)
        self.contents[name] = content
        return OutputFile(name, media_type, size, hashlib.sha256(content).hexdigest())


def announced(name: str, content: bytes, mark: str = MARKS[0], **changes: Any) -> dict[str, Any]:
    return {"name": name, "media_type": "text/plain", "size": len(content), "mark": mark, **changes}


class Runtime:
    """Answers a call with `answer`, and requests of files with the content by their name, or whatever does it."""

    def __init__(self, answer: bytes, files: Mapping[str, bytes | Answer]) -> None:
        self.answer = answer
        self.files = files

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target.decode()
        if target.startswith("/tools/"):
            writer.write(self.answer)
            await writer.drain()
            # The caller keeps the connection while it fetches files. A tool that streams ends where it cannot.
            while b"ndjson" in self.answer and not self.answer.endswith(b"0\r\n\r\n"):
                writer.write(b"1\r\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
            await reader.read()
            return
        content = self.files.get(target.rpartition("/")[2], http(b"{}", status="404 Not Found"))
        if not isinstance(content, bytes):
            await content(reader, writer)
            return
        writer.write(content)
        await writer.drain()

    target = b""


async def run(
    answer: bytes, files: Mapping[str, bytes | Answer], *, store: Store | None = None, timeout: float = 2, **sink: Any
) -> RunResult:
    runtime = Runtime(answer, files)
    async with raw_instance(runtime, heads=lambda head: setattr(runtime, "target", head.split(b" ")[1])) as instance:
        return await sandbox().run(instance, CALL, timeout=timeout, sink=ResultSink(files=store or Store(), **sink))


def result_with(*files: dict[str, Any], result: Any = MARKS[0]) -> bytes:
    return http(json.dumps({"ok": True, "result": result, "files": files}).encode())


def reference(name: str, content: bytes) -> dict[str, Any]:
    return {
        "file": name,
        "media_type": "text/plain",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "url": f"/v1/runs/run-1/files/{name}",
    }


async def test_a_file_is_stored_and_the_result_refers_to_it() -> None:
    store = Store()
    content = b"hello" * 100_000
    answer = result_with(announced("a.txt", content), result={"text": [MARKS[0]], "n": 1})
    result = await run(answer, {"a.txt": http(content)}, store=store)
    assert json.loads(result.result or b"") == {"text": [reference("a.txt", content)], "n": 1}
    assert store.contents == {"a.txt": content}
    assert [file.reference("run-1") for file in result.files] == [reference("a.txt", content)]


async def test_an_item_is_passed_on_once_its_files_can_be_read() -> None:
    store = Store()
    seen = []

    async def emit(lines: Sequence[bytes]) -> None:
        seen.extend((json.loads(line), dict(store.contents)) for line in lines)

    items = [
        json.dumps({"event": "item", "data": MARKS[n], "files": [announced(f"{n}", b"x" * n, MARKS[n])]}).encode()
        for n in range(2)
    ]
    answer = http_stream(*items, b'{"event": "end", "ok": true, "items": 2}')
    result = await run(answer, {"0": http(b""), "1": http(b"x")}, store=store, emit=emit)
    assert [item for item, _ in seen] == [
        {"event": "item", "data": reference("0", b"")},
        {"event": "item", "data": reference("1", b"x")},
    ]
    assert [stored for _, stored in seen] == [{"0": b""}, {"0": b"", "1": b"x"}]
    assert [file.name for file in result.files] == ["0", "1"]
    collected = await run(answer, {"0": http(b""), "1": http(b"x")})
    assert json.loads(collected.result or b"") == [reference("0", b""), reference("1", b"x")]


async def test_a_stream_that_fails_still_names_the_files_that_its_reader_has_seen() -> None:
    async def emit(_: Sequence[bytes]) -> None:
        pass

    item = json.dumps({"event": "item", "data": MARKS[0], "files": [announced("a", b"x")]}).encode()
    end = b'{"event": "end", "ok": false, "kind": "exception", "error": "no", "error_type": "E", "traceback": ""}'
    result = await run(http_stream(item, end), {"a": http(b"x")}, emit=emit)
    assert (result.reason_code, [file.name for file in result.files]) == (ReasonCode.TOOL_ERROR, ["a"])
    assert (await run(http_stream(item, end), {"a": http(b"x")})).files == ()


REFUSED = {
    "longer than announced": ([announced("a", b"x")], {"a": http(b"xy")}, "has changed after the tool gave it"),
    "shorter than announced": ([announced("a", b"xyz")], {"a": http(b"xy")}, "has changed after the tool gave it"),
    "not there": ([announced("a", b"x")], {}, "does not give the file a"),
    "over the limit": ([announced("a", b"", size=2**20 + 1)], {}, "over the limit of 1 MiB (`limits.output`)"),
    "together over it": (
        [announced("a", b"", size=2**20), announced("b", b"", MARKS[1], size=1)],
        {},
        "`limits.output`",
    ),
    "a path": ([announced("../a", b"")], {}, "cannot be"),
    "a hidden name": ([announced(".part", b"")], {}, "cannot be"),
    "a name that turns its direction": ([announced("a\u202egnp", b"")], {}, "cannot be"),
    "a name with a space": ([announced("a b", b"")], {}, "cannot be"),
    "a decomposed name": ([announced("u\u0308", b"")], {}, "cannot be"),
    "a name of too many bytes": ([announced("ж" * 61, b"")], {}, "cannot be"),
    "an empty name": ([announced("", b"")], {}, "cannot be"),
    "a long name": ([announced("a" * 121, b"")], {}, "cannot be"),
    "a name twice": ([announced("a", b""), announced("A", b"", MARKS[1])], {}, "cannot be"),
    "a negative size": ([announced("a", b"", size=-1)], {}, "not what the runtime protocol says"),
    "no list": ({"a": 1}, {}, "not what the runtime protocol says"),
    "too many": ([announced(f"{n}", b"") for n in range(10_001)], {}, "more than 10000 files"),
}


@pytest.mark.parametrize(("files", "given", "phrase"), REFUSED.values(), ids=REFUSED)
async def test_what_may_not_be_given_is_invalid_output(files: Any, given: Any, phrase: str) -> None:
    store = Store()
    result = await run(http(json.dumps({"ok": True, "result": 1, "files": files}).encode()), given, store=store)
    assert (result.outcome, result.reason_code) == (Outcome.PLUGIN_FAILED, ReasonCode.INVALID_OUTPUT)
    assert phrase in (result.error or "")
    assert (result.files, store.contents) == ((), {})


@pytest.mark.parametrize("media_type", ["", "a/b\r\nSet-Cookie: x", "ä/b", "text/html" * 50, "text"])
async def test_a_media_type_that_is_none_is_replaced(media_type: str) -> None:
    result = await run(result_with(announced("a", b"x", media_type=media_type)), {"a": http(b"x")})
    assert result.files[0].media_type == "application/octet-stream"


async def test_a_file_that_trickles_is_over_the_runs_time() -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    started = time.monotonic()
    result = await run(result_with(announced("a", b"x" * 1000)), {"a": trickle}, timeout=0.5)
    assert result.reason_code is ReasonCode.TIMEOUT
    assert time.monotonic() - started < 10
    assert result.files == ()


async def test_single_bytes_do_not_stop_the_clock() -> None:
    """Each that comes by itself would be stored with the clock stopped, if it were."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)

    store = Store(pause=0.02)
    started = time.monotonic()
    result = await run(result_with(announced("a", b"x" * 100_000)), {"a": drip}, store=store, timeout=0.5)
    assert result.ok or result.reason_code is ReasonCode.TIMEOUT
    assert time.monotonic() - started < 20  # not 2000 s


async def test_a_slow_disk_of_ours_is_not_the_plugins_time() -> None:
    result = await run(result_with(announced("a", b"x")), {"a": http(b"x")}, store=Store(pause=1.0), timeout=0.5)
    assert result.ok


async def test_a_disk_of_ours_without_room_is_told_as_ours() -> None:
    single = await run(result_with(announced("a", b"x")), {"a": http(b"x")}, store=Store(full=True))
    item = json.dumps({"event": "item", "data": MARKS[0], "files": [announced("a", b"x")]}).encode()
    stream = await run(http_stream(item, end=False), {"a": http(b"x")}, store=Store(full=True))
    for result in (single, stream):
        assert (result.outcome, result.reason_code, result.from_plugin) == (Outcome.UNAVAILABLE, None, False)
        assert (result.error, result.error_type) == ("The disk is full.", "NotStored")


async def test_a_file_that_breaks_off_is_a_broken_connection() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nxy"
    result = await run(result_with(announced("a", b"x" * 1000)), {"a": cut})
    assert result.reason_code is ReasonCode.UNRESPONSIVE
    assert "broke while a file came" in (result.error or "")


# References in place of marks

values = st.recursive(
    st.none()
    | st.integers()
    | st.text()
    | st.sampled_from([*MARKS, f'"{MARKS[0]}"', f"x{MARKS[0]}", '\\"' + MARKS[0]]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(MARKS), inner),
    max_leaves=20,
)


def replaced(value: Any, left: dict[str, Any]) -> Any:
    """By walking through it."""
    if isinstance(value, str):
        return left.pop(value, value)
    if isinstance(value, list):
        return [replaced(member, left) for member in value]
    return {key: replaced(member, left) for key, member in value.items()} if isinstance(value, dict) else value


@given(value=values, spaced=st.booleans())
def test_only_whole_strings_that_are_marks_become_references(value: Any, spaced: bool) -> None:
    """Once each, and the result stays JSON, whatever else is in it."""
    text = json.dumps(value, separators=(" , ", " : ") if spaced else None, ensure_ascii=False).encode(
        errors="surrogatepass"
    )

    async def fetched() -> bytes:
        runtime = Runtime(b"", {"a": http(b"x")})
        async with raw_instance(
            runtime, heads=lambda head: setattr(runtime, "target", head.split(b" ")[1])
        ) as instance:
            with Deadline(5) as deadline:
                fetcher = FileFetcher(instance.channel, "run-1", Store(), deadline, limit=10)
                return await fetcher.fetch([AnnouncedFile("a", 1, MARKS[0], "text/plain")], text)

    assert json.loads(asyncio.run(fetched())) == replaced(json.loads(text), {MARKS[0]: reference("a", b"x")})
