"""Files of a result: what is one, what it is called, what it is, and what cannot be one."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pydantic
import pytest
from PIL import Image
from plugin_runtime import File
from plugin_runtime.tools.media_types import file_name, media_type_of_name, sniffed_media_type
from plugin_runtime.tools.output_files import MAX_FILES, MAX_IN_MEMORY, MAX_OPEN, OutputFiles
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.results import encode_item, encode_result

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
MIB = 1024 * 1024


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles(str(tmp_path / "scratch"), 10 * MIB)


def encoded(value: Any, files: OutputFiles, *, item: bool = False) -> Any:
    """The result, with a file's name where its mark is."""
    text = encode_item(value, 10 * MIB, files) if item else encode_result(value, 10 * MIB, files)
    names = {document["mark"]: document["name"] for document in files.documents()}

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(member) for key, member in value.items()}
        return [named(member) for member in value] if isinstance(value, list) else names.get(value, value)

    return named(json.loads(text))


def content(files: OutputFiles, name: str) -> bytes:
    file = files.find(name)
    assert file is not None
    return b"".join(file.chunks())


@dataclasses.dataclass
class Page:
    overlay: bytes
    number: int = 1


class Struct(msgspec.Struct):
    overlay: Any


class Model(pydantic.BaseModel):
    table: bytes
    number: int = 1


FILES = {
    "bytes": (PNG, "result.png"),
    "bytearray": (bytearray(PNG), "result.png"),
    "memory view": (memoryview(PNG), "result.png"),
    "of a key": ({"overlay": PNG, "n": 1}, {"overlay": "overlay.png", "n": 1}),
    "twice": (
        {"overlay": PNG, "more": {"overlay": PNG}},
        {"overlay": "overlay.png", "more": {"overlay": "overlay-2.png"}},
    ),
    "in a list": ({"pages": [PNG, b"?"]}, {"pages": ["pages.png", "pages.bin"]}),
    "after a key": ([{"a": 1.5}, PNG], [{"a": 1.5}, "result.png"]),
    "dataclass": (Page(PNG), {"overlay": "overlay.png", "number": 1}),
    "struct": (Struct([PNG]), {"overlay": ["overlay.png"]}),
    "pydantic model, even where it is text": (Model(table=b"a,b"), {"table": "table.bin", "number": 1}),
    "with its type": ({"page": {"media_type": "image/webp", "data": b"x"}}, {"page": "page.webp"}),
    "with its type and more": (
        {"page": {"media_type": "image/webp", "data": b"x", "width": 3}},
        {"page": {"media_type": "image/webp", "data": "page.webp", "width": 3}},
    ),
    "File": (File(b"a,b\n", "text/csv"), "result.csv"),
    "File with a name": ({"x": File(b"a,b\n", name="table.csv")}, {"x": "table.csv"}),
    "File with an odd name": (File(b"a", name="../a b/Übersicht 1.csv"), "Übersicht_1.csv"),
    "an odd key": ({"Bild/1": PNG}, {"Bild/1": "1.png"}),
    "image": ({"page": Image.new("RGB", (2, 2))}, {"page": "page.png"}),
    "far down among many": ({"many": [*range(100), PNG]}, {"many": [*range(100), "many.png"]}),
    "no file: text": ({"media_type": "image/png", "data": "aGk="}, {"media_type": "image/png", "data": "aGk="}),
    "no file: a path": ({"a": pathlib.PurePosixPath("/etc/passwd")}, {"a": "/etc/passwd"}),
    "no file: a key": ({b"hi": 1}, {"aGk=": 1}),
    "no files: an array of texts": (np.array([b"hi", b"ho"]), ["aGk=", "aG8="]),
}  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), FILES.values(), ids=FILES)
def test_a_file_is_named_by_where_it_stands(files: OutputFiles, value: Any, expected: Any) -> None:
    assert encoded(value, files) == expected


def test_the_content_is_what_was_returned(files: OutputFiles) -> None:
    big = os.urandom(MAX_IN_MEMORY + 1)
    encoded({"a": PNG, "b": big, "c": b"", "d": memoryview(big)[::2], "e": File(b"small")}, files)
    assert [content(files, f"{name}") for name in ("a.png", "b.bin", "c.bin", "d.bin", "e.bin")] == [
        PNG, big, b"", big[::2], b"small",
    ]  # fmt: skip
    assert [file["size"] for file in files.documents()] == [len(PNG), len(big), 0, -(-len(big) // 2), 5]


def test_what_is_announced_with_an_item_is_new(files: OutputFiles) -> None:
    encoded({"a": PNG}, files, item=True)
    assert [file["name"] for file in files.new_documents()] == ["a.png"]
    assert files.new_documents() == []
    encoded({"a": PNG}, files, item=True)
    assert [file["name"] for file in files.new_documents()] == ["a-2.png"]
    assert [file["name"] for file in files.documents()] == ["a.png", "a-2.png"]


@pytest.mark.parametrize("part", [b"hi", bytearray(b"hi"), {"part": 1, "media_type": "video/mp4", "data": b"hi"}])
def test_bytes_that_are_yielded_are_a_part_of_one_whole(files: OutputFiles, part: Any) -> None:
    item = encoded(part, files, item=True)
    assert (item["data"] if isinstance(item, dict) else item) == "aGk="
    assert files.documents() == []


@pytest.mark.parametrize("item", [File(PNG), {"frame": PNG}, [PNG], Image.new("L", (1, 1))])
def test_other_files_that_are_yielded_are_files(files: OutputFiles, item: Any) -> None:
    encoded(item, files, item=True)
    assert len(files.documents()) == 1


# By path


def test_a_path_is_a_file_of_its_name(files: OutputFiles, tmp_path: Path) -> None:
    path = tmp_path / "film 1.mp4"
    path.write_bytes(b"x" * 1000)
    assert encoded([File(path), File(str(path))], files) == ["film_1.mp4", "film_1-2.mp4"]
    path.unlink()  # as an upload, or a file in a TemporaryDirectory
    assert content(files, "film_1.mp4") == b"x" * 1000
    assert files.documents()[0]["media_type"] == "video/mp4"


def test_what_is_yielded_by_path_may_be_overwritten(files: OutputFiles, tmp_path: Path) -> None:
    files.copies = True
    path = tmp_path / "frame.png"
    for number in range(3):
        path.write_bytes(PNG + bytes([number]))
        encoded(File(path), files, item=True)
    assert [content(files, name)[-1] for name in ("frame.png", "frame-2.png", "frame-3.png")] == [0, 1, 2]


def test_many_paths_hold_few_descriptors(files: OutputFiles, tmp_path: Path) -> None:
    for number in range(3 * MAX_OPEN):
        (tmp_path / str(number)).write_text(str(number))
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    encoded([File(tmp_path / str(number)) for number in range(3 * MAX_OPEN)], files)
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) - before <= MAX_OPEN + 1
    assert all(content(files, str(number)) == str(number).encode() for number in range(3 * MAX_OPEN))


@pytest.mark.parametrize("kind", ["outside", "link", "traversal", "folder", "pipe", "missing", "nul"])
def test_what_no_plugin_writes_is_refused_with_a_sentence(files: OutputFiles, tmp_path: Path, kind: str) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("/etc/passwd")
    os.mkfifo(pipe)
    path, phrase = {
        "outside": ("/etc/passwd", "not in the scratch folder"),
        "link": (str(link), "not in the scratch folder"),
        "traversal": (f"{tmp_path}/../../../../../etc/passwd", "not in the scratch folder"),
        "folder": (str(tmp_path), "no regular file"),
        "pipe": (str(pipe), "no regular file"),
        "missing": (str(tmp_path / "none"), "cannot be opened: No such file"),
        "nul": ("a\0b", "cannot be opened: embedded null"),
    }[kind]
    with pytest.raises(Refused) as refused:
        encoded({"page": [File(path)]}, files)
    assert refused.value.refusal.kind == "invalid_output"
    assert "result.page[0] is a File of" in refused.value.refusal.error
    assert phrase in refused.value.refusal.error


def test_a_link_within_the_scratch_folder_is_followed(files: OutputFiles, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"hi")
    (tmp_path / "latest").symlink_to("real")
    encoded(File(tmp_path / "latest"), files)
    assert content(files, "latest") == b"hi"


# Bounds


@pytest.mark.parametrize("how", ["bytes", "path", "copy"])
def test_files_over_the_limit_are_refused_with_its_name(tmp_path: Path, how: str) -> None:
    files = OutputFiles(str(tmp_path), 100)
    (tmp_path / "big").write_bytes(b"x" * 60)
    files.copies = how == "copy"
    value: Any = b"x" * 60 if how == "bytes" else File(tmp_path / "big")
    with pytest.raises(Refused, match=r"result\[1\] makes the files of this run more than 100 bytes.*`limits.output`"):
        encoded([value, value], files)


def test_there_are_only_so_many_files(files: OutputFiles) -> None:
    with pytest.raises(Refused, match="one file too many"):
        encoded([b""] * (MAX_FILES + 1), files)


def test_a_file_beside_a_part_has_no_place(files: OutputFiles) -> None:
    with pytest.raises(Refused, match=r"result\.more is a file"):
        encoded({"media_type": "video/mp4", "data": b"x", "more": File(b"")}, files, item=True)


# What a file is

MAGIC = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\0\0\0\0WEBPVP8 ",
    "image/bmp": b"BM\x46\0\0\0\0\0\0\0",
    "audio/wav": b"RIFF\0\0\0\0WAVEfmt ",
    "video/mp4": b"\0\0\0\x18ftypisom",
    "audio/mp4": b"\0\0\0\x18ftypM4A \0",
    "video/webm": b"\x1aE\xdf\xa3\x01\0\0\0B\x82\x84webm",
    "video/x-matroska": b"\x1aE\xdf\xa3\x01\0\0\0B\x82\x88matroska",
    "application/pdf": b"%PDF-1.7",
    "application/zip": b"PK\x03\x04",
    "application/x-npy": b"\x93NUMPY",
    None: b"BMW is a car",
}


@pytest.mark.parametrize(("media_type", "start"), MAGIC.items(), ids=str)
def test_the_first_bytes_say_what_it_is(media_type: str | None, start: bytes) -> None:
    assert sniffed_media_type(start) == media_type


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.csv", "text/csv"),
        ("A.PNG", "image/png"),
        ("a.json", "application/json"),
        ("a.webp", "image/webp"),
        ("a.parquet", "application/vnd.apache.parquet"),
        ("a.npy", "application/x-npy"),
        ("a.csv.gz", "application/gzip"),
        ("a.svg", "image/svg+xml"),
        ("a", None),
        ("a.unknown", None),
    ],
)
def test_its_name_says_what_it_is(name: str, media_type: str | None) -> None:
    assert media_type_of_name(name) == media_type


def test_a_given_type_counts_before_the_name_and_the_name_before_the_content(files: OutputFiles) -> None:
    encoded([File(PNG, "image/x-own", name="a.gif"), File(PNG, name="b.gif"), File(PNG, name="c")], files)
    assert [file["media_type"] for file in files.documents()] == ["image/x-own", "image/gif", "image/png"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.png", "a.png"),
        ("/etc/passwd", "passwd"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("a\r\nb", "a__b"),
        ("C:\\x\\y.txt", "y.txt"),
        ("Übersicht ä.png", "Übersicht_ä.png"),
        ("U\u0308ber.png", "Über.png"),
        ("写真/北京.jpeg", "北京.jpeg"),
        ("हिन्दी.csv", "हिन्दी.csv"),
        ("a\u202egnp.exe", "a_gnp.exe"),
        ("..\u0301x", "x"),
        ("\udcff.png", "_.png"),
        ("ж" * 300 + ".png", "ж" * 48 + ".png"),
        ("x" * 300 + ".tiff", "x" * 95 + ".tiff"),
        ("", "file"),
    ],
)
def test_a_name_is_one_safe_component(name: str, safe: str) -> None:
    assert file_name(name) == safe


@pytest.mark.parametrize("media_type", ["png", "a/b\r\nX: y", "image/", "/png", "ä/b", 1, "a/" + "b" * 300])
def test_what_is_no_media_type_is_refused_where_it_is_written(media_type: Any) -> None:
    with pytest.raises(ValueError, match="no media type"):
        File(b"", media_type)


def test_what_is_no_content_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="not Image"):
        File(Image.new("L", (1, 1)))  # type: ignore[arg-type]


def test_a_file_can_be_read_in_a_test(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hi")
    assert [File(b"hi").read_bytes(), File(tmp_path / "a").read_bytes()] == [b"hi", b"hi"]
    assert "2 bytes" in repr(File(b"hi", "text/plain"))


# Images


MODES = [
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "I;16",
    "CMYK",
    "YCbCr",
    "HSV",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "F",
    "I",
    "LAB",
]


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_is_a_file_without_loss(files: OutputFiles, mode: str) -> None:
    image = Image.new(mode, (3, 2))
    encoded(image, files)
    (document,) = files.documents()
    assert document["name"] == ("result.tiff" if mode in {"F", "I", "LAB"} else "result.png")
    read = Image.open(io.BytesIO(content(files, document["name"])))
    assert read.size == (3, 2)
    if mode in {"1", "L", "LA", "RGB", "RGBA", "I;16", "F", "I"}:
        assert (read.mode, read.tobytes()) == (mode, image.tobytes())


def test_an_animation_stays_one(files: OutputFiles) -> None:
    gif = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    encoded({"film": Image.open(gif)}, files)
    assert getattr(Image.open(io.BytesIO(content(files, "film.png"))), "n_frames", 1) == 3
