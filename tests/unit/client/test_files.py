"""Files among the arguments: one or several for a parameter, from wherever a program has them."""

from __future__ import annotations

import collections
import email
import io
import os
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted_transport import ScriptedTransport, envelope

from orchestrator.client import InvalidRequest, QueueFull, Upload

if TYPE_CHECKING:
    from email.message import Message

FULL = envelope(429, error_type="QueueFull", error="full", retry_after=1)


def parts(transport: ScriptedTransport, at: int = 0) -> list[tuple[str, str | None, bytes, str]]:
    """Name, file name, content and type of every part of a multipart body."""
    head = f"Content-Type: {transport.requests[at].headers['content-type']}\r\n\r\n".encode()
    whole = email.message_from_bytes(head + transport.bodies[at])
    found: list[Message[str, str]] = whole.get_payload()  # type: ignore[assignment]
    return [
        (
            str(part.get_param("name", header="content-disposition")),
            part.get_filename(),
            bytes(part.get_payload(decode=True) or b""),  # type: ignore[arg-type]
            part.get_content_type(),
        )
        for part in found
    ]


@pytest.fixture
def pages(tmp_path):
    """Two pictures on disk."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    return [tmp_path / "a.png", tmp_path / "b.png"]


@pytest.mark.parametrize("method", ["run", "stream", "run_async"])
async def test_a_list_of_files_is_one_part_each_in_its_order(make, method, pages):
    transport = ScriptedTransport(envelope(run_id="1", state="queued"))
    with pages[0].open("rb") as opened:
        images: list[Any] = [pages[1], opened, b"raw", Upload(b"named", "c.jpg", "image/x"), io.BytesIO(b"memory")]
        await make("http://orchestrator", transport=transport)(method, "ocr", "read", images=images, language="eng")
    assert parts(transport) == [
        ("images", "b.png", b"b.png", "image/png"),
        ("images", "a.png", b"a.png", "image/png"),
        ("images", "images", b"raw", "application/octet-stream"),
        ("images", "c.jpg", b"named", "image/x"),
        ("images", "images", b"memory", "application/octet-stream"),
        ("language", None, b"eng", "text/plain"),
    ]


@pytest.mark.parametrize("kind", [list, tuple, collections.deque, iter])
async def test_any_collection_of_files_will_do(make, kind, pages):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "ocr", "read", images=kind(pages))
    assert [content for _, _, content, _ in parts(transport)] == [b"a.png", b"b.png"]


async def test_files_of_a_folder_as_they_are_found(make, pages):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "ocr", "read", images=pages[0].parent.glob("*.png"))
    assert {name for _, name, _, _ in parts(transport)} == {"a.png", "b.png"}


@pytest.mark.parametrize("empty", [[], (), set(), collections.deque(), range(0)])
async def test_an_empty_list_beside_a_file_is_sent_as_one(make, empty):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "ocr", "read", image=b"raw", boxes=empty)
    assert parts(transport)[1] == ("boxes", None, b"[]", "text/plain")


@pytest.mark.parametrize("content", [b"raw", bytearray(b"raw"), memoryview(b"raw"), io.BytesIO(b"raw")])
async def test_one_file_from_memory(make, content):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "ocr", "read", image=content)
    assert parts(transport) == [("image", "image", b"raw", "application/octet-stream")]


async def test_an_object_with_read_alone_is_sent(make):
    class Reader:
        def __init__(self) -> None:
            self._inner = io.BytesIO(b"raw")

        def read(self, size: int = -1) -> bytes:
            return self._inner.read(size)

    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "ocr", "read", image=Reader())
    assert b"raw" in transport.bodies[0]


async def test_several_files_are_sent_again_whole_where_the_run_was_not_started(make, pages):
    transport = ScriptedTransport(FULL, envelope())
    with pages[0].open("rb") as opened:
        await make("http://orchestrator", transport=transport)("run", "ocr", "read", images=[opened, pages[1]])
    assert [content for _, _, content, _ in parts(transport, 1)] == [b"a.png", b"b.png"]


async def test_several_files_of_which_one_can_be_read_once_are_sent_once(make):
    out, into = os.pipe()
    os.write(into, b"pipe")
    os.close(into)
    transport = ScriptedTransport(FULL)
    with os.fdopen(out, "rb") as pipe, pytest.raises(QueueFull):
        await make("http://orchestrator", transport=transport)("run", "echo", "say", texts=[b"1", pipe])
    assert len(transport.requests) == 1


async def test_a_file_name_that_is_no_text_does_not_stop_the_call(make, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        odd.write_bytes(b"raw")
    except OSError:
        pytest.skip("this file system refuses such a name")
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "ocr", "read", image=odd)
    assert parts(transport)[0][2:] == (b"raw", "image/png")


def closed(folder: Any) -> Any:
    (folder / "a").touch()
    with (folder / "a").open("rb") as file:
        return file


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (lambda folder: folder / "missing.png", "image cannot be read: .*missing.png: No such file"),
        (lambda folder: folder, "image cannot be read: .*directory"),
        (lambda _: [b"1", "two"], "image holds files, and at 1 a value of type str"),
        (lambda _: ["one", b"2"], "image holds files, and at 0 a value of type str"),
        (lambda _: io.StringIO("text"), "image is a file opened as text"),
        (lambda _: Upload("page.png"), "image has a value of type str as its content"),
        (closed, "image is a file that is closed"),
    ],
)
async def test_what_cannot_be_a_file_is_refused_before_anything_is_sent(make, tmp_path, image, sentence):
    transport = ScriptedTransport(envelope())
    with pytest.raises(InvalidRequest, match=sentence):
        await make("http://orchestrator", transport=transport)("run", "ocr", "read", image=image(tmp_path))
    assert transport.requests == []
