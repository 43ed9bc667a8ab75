"""Files in results: objects to read or save, whole or not at all, whatever the connection does."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import random
import tracemalloc
from contextlib import ExitStack

import httpx
import pytest
from support.file_transport import RUN, FileTransport

from orchestrator.client import (
    ApiError,
    AsyncResultFile,
    Client,
    FileNotSaved,
    InvalidRequest,
    Item,
    NotFound,
    ResultFile,
    UnexpectedAnswer,
    Unreachable,
    Upload,
    downloads,
)

PICTURE = random.Random(1).randbytes(200_000)
MAX_MEMORY = 4 * 1024**2


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


async def drawn(make, transport):
    """The client, and the result of its run."""
    call = make("http://orchestrator", transport=transport)
    return call, await call("run", "pics", "draw")


async def test_a_file_is_an_object_with_its_facts_and_its_content(make):
    transport = FileTransport(files={"overlay.png": PICTURE})
    transport.result = transport.reference("overlay.png")
    call, file = await drawn(make, transport)
    assert isinstance(file, ResultFile | AsyncResultFile)
    assert (file.name, file.media_type, file.size) == ("overlay.png", "image/png", len(PICTURE))
    assert file.sha256 == hashlib.sha256(PICTURE).hexdigest()
    assert await call.of(file, "read") == PICTURE


async def test_files_are_found_in_lists_and_nested_values(make):
    transport = FileTransport(files={"a.png": b"a", "b.png": b"b"})
    transport.result = {"pages": [{"picture": transport.reference("a.png")}, [transport.reference("b.png"), 1]]}
    call, result = await drawn(make, transport)
    found = [result["pages"][0]["picture"], result["pages"][1][0]]
    assert [await call.of(file, "read") for file in found] == [b"a", b"b"]
    envelope = await call("call", "pics", "draw")
    assert [file.name for file in envelope["files"]] == ["a.png", "b.png"]


async def test_an_envelope_with_files_is_json_as_before(make):
    transport = FileTransport(files={"a.png": b"a"})
    transport.result = [transport.reference("a.png")]
    _, result = await drawn(make, transport)
    assert json.loads(json.dumps(result)) == transport.result == result
    assert copy.deepcopy(result) == pickle.loads(pickle.dumps(result)) == transport.result


async def test_what_looks_like_a_file_and_is_not_listed_is_a_value(make):
    transport = FileTransport(files={"a.png": b"a"})
    own = transport.reference("a.png")
    lookalikes = [
        {**own, "size": 2},
        {**own, "url": own["url"] + "2"},
        {**own, "more": 1},
        {**own, "size": "1"},
        own["url"],
    ]
    transport.result = [*lookalikes, own]
    _, result = await drawn(make, transport)
    assert [type(value) for value in result] == [dict, dict, dict, dict, str, type(result[-1])]
    assert isinstance(result[-1], ResultFile | AsyncResultFile)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://elsewhere/v1/runs/x"},
        {"url": "//elsewhere/v1/"},
        {"url": None},
        {"size": -1},
        {"size": True},
        {"sha256": "A" * 64},
        {"media_type": None},
        {"file": ["a.png"]},
    ],
)
async def test_a_reference_that_cannot_be_right_is_a_value_even_if_it_is_listed(make, wrong):
    transport = FileTransport(files={"a.png": b"a"})
    transport.result = transport.reference("a.png", **wrong)
    transport.envelope = lambda: {**FileTransport.envelope(transport, [transport.result, 3, None])}  # type: ignore[method-assign]
    _, result = await drawn(make, transport)
    assert type(result) is dict


async def test_an_orchestrator_without_files_gives_values_as_before(make):
    transport = FileTransport({"file": "a.png"})
    transport.envelope = lambda: {"ok": True, "result": transport.result}  # type: ignore[method-assign]
    _, result = await drawn(make, transport)
    assert result == {"file": "a.png"}


async def test_nesting_is_no_problem(make):
    transport = FileTransport(files={"a.png": b"a"})
    for _ in range(400):
        transport.result = [{"in": transport.result}]
    await drawn(make, transport)


async def test_items_of_a_stream_hold_files_of_this_run_and_no_other(make):
    transport = FileTransport(files={"a.png": PICTURE})
    own = transport.reference("a.png")
    other = {**own, "url": own["url"].replace(RUN, "f" * 32)}
    transport.items = [{"frame": 1, "picture": own}, other, 3]
    call = make("http://orchestrator", transport=transport)
    events = await call("stream", "pics", "draw")
    items = [event.data for event in events if isinstance(event, Item)]
    assert await call.of(items[0]["picture"], "read") == PICTURE
    assert (type(items[1]), items[2]) == (dict, 3)
    assert isinstance(events[-1].envelope["files"][0], ResultFile | AsyncResultFile)


@pytest.mark.parametrize("item", ["aGVs", {"media_type": "text/plain", "data": "aGVs", "part": 1}])
async def test_a_part_of_a_stream_has_its_content(make, item):
    events = await make("http://orchestrator", transport=FileTransport(items=[item]))("stream", "pics", "draw")
    assert events[1].content == b"hel"


@pytest.mark.parametrize("item", ["hello", 3, None, {"data": 1}, {"media_type": "a/b"}, []])
async def test_an_item_that_is_no_part_has_no_content(make, item):
    events = await make("http://orchestrator", transport=FileTransport(items=[item]))("stream", "pics", "draw")
    with pytest.raises(UnexpectedAnswer):
        _ = events[1].content


async def test_it_is_no_argument_of_a_run_itself_and_the_error_says_what_to_send(make):
    transport = FileTransport(files={"a.png": b"a"})
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    sent = len(transport.requests)
    for value in (file, [file], Upload(file)):
        with pytest.raises(InvalidRequest, match=r"image is a file of a result; send what its read\(\) gives"):
            await call("run", "ocr", "read", image=value)
    assert len(transport.requests) == sent


# Saving


async def test_a_file_is_saved_under_a_path_or_into_a_folder(make, tmp_path):
    transport = FileTransport(files={"overlay.png": PICTURE})
    transport.result = transport.reference("overlay.png")
    call, file = await drawn(make, transport)
    for given, expected in (
        (tmp_path / "x.png", "x.png"),
        (str(tmp_path), "overlay.png"),
        (tmp_path / "x.png", "x.png"),
        (f"{tmp_path}/new/folder/", "new/folder/overlay.png"),
    ):
        saved = await call.of(file, "save", given)
        assert saved == tmp_path / expected
        assert saved.read_bytes() == PICTURE
    assert names(tmp_path) == ["new", "overlay.png", "x.png"]


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("a b\n\x1b.png", "a_b_.png"),
        ("ä" * 300 + ".png", "ä" * 58 + ".png"),
        ("x" * 300, "x" * 120),
        ("a." + "b" * 300, "a." + "b" * 118),
        ("\ud800.png", "_.png"),
        ("", "file"),
    ],
)
def test_a_name_leads_out_of_no_folder(name, saved):
    assert downloads.safe_name(name) == saved


async def test_a_broken_connection_is_taken_up_where_it_broke(make, tmp_path):
    transport = FileTransport(files={"a.png": PICTURE}, breaks_after=[70_000, 0, 0, 100_000, None])
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    assert (await call.of(file, "save", tmp_path / "a.png")).read_bytes() == PICTURE
    asked = [request.headers.get("range") for request in transport.file_requests()]
    assert asked == [None, *["bytes=70000-"] * 3, "bytes=170000-"]
    assert {request.headers.get("if-range") for request in transport.file_requests()[1:]} == {f'"{file.sha256}"'}
    assert {request.headers["accept-encoding"] for request in transport.file_requests()} == {"identity"}


async def test_it_begins_again_where_ranges_are_not_served(make):
    transport = FileTransport(files={"a.png": PICTURE}, breaks_after=[70_000, None], ranges=False)
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    assert await call.of(file, "read") == PICTURE


@pytest.mark.parametrize(
    ("breaks_after", "error"),
    [([0] * 9, Unreachable), ([7] + [0] * 5, None), ([7] + [0] * 9, Unreachable), ([30_000] * 7, None)],
)
async def test_it_is_given_up_when_nothing_comes_any_more(make, tmp_path, breaks_after, error):
    transport = FileTransport(files={"a.png": PICTURE}, breaks_after=breaks_after)
    transport.result = transport.reference("a.png")
    call, file = await drawn(lambda *a, **k: make(*a, retries=0, **k), transport)
    if error is None:
        await call.of(file, "save", tmp_path / "a.png")
        return
    with pytest.raises(error):
        await call.of(file, "save", tmp_path / "a.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [PICTURE[:-1] + b"x", PICTURE + b"x", b""])
async def test_other_bytes_are_an_error_and_no_file(make, tmp_path, content):
    transport = FileTransport(files={"a.png": PICTURE})
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    (tmp_path / "a.png").write_bytes(b"before")
    transport.files["a.png"] = content
    for method, arguments in (("save", [tmp_path / "a.png"]), ("read", [])):
        with pytest.raises((UnexpectedAnswer, Unreachable)):
            await call.of(file, method, *arguments)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"before")]


async def test_an_empty_file_is_a_file(make, tmp_path):
    transport = FileTransport(files={"empty.txt": b""})
    transport.result = transport.reference("empty.txt")
    call, file = await drawn(make, transport)
    assert await call.of(file, "read") == b""
    assert (await call.of(file, "save", tmp_path / "e.txt")).read_bytes() == b""


async def test_a_file_that_is_gone_is_not_found(make, tmp_path):
    transport = FileTransport(files={"a.png": PICTURE})
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    transport.files.clear()
    with pytest.raises(NotFound, match="no such file"):
        await call.of(file, "save", tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("path", "sentence"), [("missing/a.png", "No such file"), ("file/a.png", "Not a directory")])
async def test_where_it_cannot_be_written_it_is_not_saved(make, tmp_path, path, sentence):
    (tmp_path / "file").touch()
    transport = FileTransport(files={"a.png": PICTURE})
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    with pytest.raises(FileNotSaved, match=sentence) as error:
        await call.of(file, "save", tmp_path / path)
    assert isinstance(error.value, ApiError) and str(tmp_path / path) in str(error.value)


async def test_a_file_that_exists_is_not_replaced_if_it_must_not_be(make, tmp_path):
    (tmp_path / "a.png").write_bytes(b"before")
    transport = FileTransport(files={"a.png": PICTURE})
    transport.result = transport.reference("a.png")
    call, file = await drawn(make, transport)
    with pytest.raises(FileNotSaved, match="exists"):
        await call.of(file, "save", tmp_path / "a.png", replace=False)
    assert transport.file_requests() == []
    assert (tmp_path / "a.png").read_bytes() == b"before"
    assert (await call.of(file, "save", tmp_path / "b.png", replace=False)).read_bytes() == PICTURE
    assert names(tmp_path) == ["a.png", "b.png"]


def test_a_file_that_another_program_made_meanwhile_is_not_replaced(tmp_path):
    saving = ExitStack()
    saving.enter_context(downloads.whole_file(tmp_path / "a", replace=False)).write(b"ours")
    (tmp_path / "a").write_bytes(b"theirs")
    with pytest.raises(FileNotSaved, match="exists"):
        saving.close()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"theirs")]


def test_a_device_is_written_to_and_a_link_leads_to_its_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with downloads.whole_file(pipe) as sink:
        sink.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to("file")
    with downloads.whole_file(tmp_path / "link") as sink:
        sink.write(b"content")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"content"


class Endless(httpx.BaseTransport):
    """A run whose file has 200 MiB of zeros."""

    size = 200 * 1024**2

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "/files/" in request.url.path:
            return httpx.Response(200, content=(bytes(65_536) for _ in range(self.size // 65_536)))
        digest = hashlib.sha256()
        for _ in range(self.size // 65_536):
            digest.update(bytes(65_536))
        about = {"file": "film.mp4", "media_type": "video/mp4", "size": self.size, "sha256": digest.hexdigest()}
        reference = {**about, "url": f"/v1/runs/{RUN}/files/film.mp4"}
        return httpx.Response(200, json={"ok": True, "result": reference, "files": [reference]})


def test_a_large_file_is_saved_without_holding_it_in_memory(tmp_path):
    with Client(transport=Endless()) as client:
        film = client.run("video", "track")
        tracemalloc.start()
        film.save(tmp_path / "film.mp4")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (tmp_path / "film.mp4").stat().st_size == Endless.size
    assert peak < MAX_MEMORY
