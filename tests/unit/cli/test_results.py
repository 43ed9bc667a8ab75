"""Files in results: saved whole under safe names, put together from their parts, or described; never as base64."""

from __future__ import annotations

import base64
import json
import os
import random
import stat

import pytest
from support.file_transport import RUN, FileTransport
from typer.testing import CliRunner

from orchestrator.cli import commands, connection, console
from orchestrator.cli.result_files import InlineFile, Parts, inline_file, texts_are_bytes
from orchestrator.client import Client, downloads

PNG = b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(3000)
JPEG = b"\xff\xd8\xff" + random.Random(2).randbytes(3000)
NOISE = random.Random(3).randbytes(3000)
BYTES = {"output_schema": {"type": "string", "contentEncoding": "base64"}}


def encoded(content):
    return base64.b64encode(content).decode()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Calls a command in an empty folder, its orchestrator being a transport."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)
    for output in (console.console, console.errors):
        monkeypatch.setattr(output, "width", 200)

    def call(transport, *arguments, code=0, terminal=False):
        monkeypatch.setattr(connection, "Client", lambda *a, **k: Client(*a, **k, transport=transport))
        monkeypatch.setattr(console.console, "_force_terminal", terminal)
        command = arguments if arguments[:1] == ("runs",) else ("run", "pics", "draw", *arguments)
        result = CliRunner().invoke(commands.command_line(command[0]), [str(one) for one in command])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


# Files that the orchestrator has


def test_every_file_of_a_result_lands_in_the_folder_and_is_named_in_it(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG, "b.csv": b"1,2"})
    transport.result = {"pages": [transport.reference("a.png"), {"table": transport.reference("b.csv")}], "n": 2}
    shown = call(transport, "-o", "out", "--raw").stdout
    assert json.loads(shown) == {"pages": ["out/a.png", {"table": "out/b.csv"}], "n": 2}
    assert (tmp_path / "out/a.png").read_bytes() == PNG
    assert names(tmp_path / "out") == ["a.png", "b.csv"]


@pytest.mark.parametrize("output", ["out", "out/", "out.d/", "deep/er/"])
def test_what_is_no_name_of_a_file_is_a_folder(call, tmp_path, output):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png")
    assert call(transport, "-o", output).stdout == f"{output.rstrip('/')}/a.png\n"
    assert (tmp_path / output / "a.png").read_bytes() == PNG


def test_a_folder_that_exists_is_one_whatever_its_name(call, tmp_path):
    (tmp_path / "out.png").mkdir()
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png")
    assert call(transport, "-o", "out.png").stdout == "out.png/a.png\n"


def test_one_file_is_saved_under_the_name_that_is_given(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = {"picture": transport.reference("a.png")}
    assert json.loads(call(transport, "-o", "page.png").stdout) == {"picture": "page.png"}
    assert (tmp_path / "page.png").read_bytes() == PNG
    assert names(tmp_path) == ["page.png"]
    assert stat.S_IMODE((tmp_path / "page.png").stat().st_mode) & 0o444 == 0o444


def test_one_file_that_is_another_is_replaced_and_that_is_said(call, tmp_path):
    (tmp_path / "page").write_bytes(b"before")
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png")
    assert "page was another file; it is replaced." in call(transport, "-o", "page").stderr
    assert (tmp_path / "page").read_bytes() == PNG
    assert call(transport, "-o", "page").stderr == ""


@pytest.mark.parametrize(("count", "sentence"), [(0, "holds no file"), (2, "holds 2 files")])
def test_a_name_for_one_file_needs_one_file(call, tmp_path, count, sentence):
    transport = FileTransport(files={name: name.encode() for name in ("a.png", "b.png")[:count]})
    transport.result = [transport.reference(name) for name in transport.files]
    assert sentence in call(transport, "-o", "page.png", code=1).stderr
    assert names(tmp_path) == ["page.png"][:count]


def test_a_device_is_written_to(call, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png")
    call(transport, "-o", "pipe")
    assert os.read(reader, 10_000) == PNG
    os.close(reader)
    assert names(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()


def test_a_file_in_the_folder_is_never_replaced_by_another(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"before")
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png")
    first = call(transport, "-o", "out")
    assert first.stdout == "out/a-2.png\n"
    assert first.stderr == "out/a.png is another file; this one is a-2.png.\n"
    assert (tmp_path / "out/a.png").read_bytes() == b"before"
    assert (tmp_path / "out/a-2.png").read_bytes() == PNG


def test_the_same_file_twice_is_one(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = [transport.reference("a.png")] * 2
    for _ in range(2):
        assert json.loads(call(transport, "-o", "out", "--raw").stdout) == ["out/a.png"] * 2
    assert len(transport.file_requests()) == 1
    assert names(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", ".x.png", "a/../x.png"])
def test_no_name_leads_out_of_the_folder(call, tmp_path, name):
    transport = FileTransport(files={"x.png": PNG})
    transport.result = reference = transport.reference("x.png") | {"file": name}
    transport.envelope = lambda: FileTransport.envelope(transport, [reference])
    assert call(transport, "-o", "out").stdout == "out/x.png\n"
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["x.png"]


def test_a_connection_that_breaks_is_taken_up_again(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG}, breaks_after=[1000, 0, None])
    transport.result = transport.reference("a.png")
    call(transport, "-o", "out")
    assert (tmp_path / "out/a.png").read_bytes() == PNG
    assert [request.headers.get("range") for request in transport.file_requests()] == [None, *["bytes=1000-"] * 2]


@pytest.mark.parametrize(
    ("breaks_after", "content", "code"), [([0] * 20, PNG, 3), ([], PNG[:-1] + b"?", 1), ([], None, 1)]
)
def test_a_file_that_does_not_arrive_whole_is_an_error_and_no_file(call, tmp_path, breaks_after, content, code):
    transport = FileTransport(files={"a.png": PNG}, breaks_after=breaks_after)
    envelope = transport.envelope()
    envelope["result"] = transport.reference("a.png")
    transport.envelope = lambda: envelope
    transport.files = {} if content is None else {"a.png": content}
    assert call(transport, "-o", "out", code=code).stderr.count("\n") == 1
    assert names(tmp_path / "out") == []


def test_where_nothing_can_be_written_a_sentence_says_so(call, tmp_path):
    (tmp_path / "file").touch()
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png")
    for output in ("file/out/", "missing/a.png"):
        assert f"Cannot write to {output.rstrip('/')}: " in call(transport, "-o", output, code=1).stderr


def test_what_only_looks_like_a_file_is_printed(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = transport.reference("a.png") | {"size": 1}
    assert json.loads(call(transport, "-o", "out").stdout) == transport.result
    assert names(tmp_path) == []


def test_without_an_output_programs_get_the_references(call):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = [transport.reference("a.png")]
    for arguments in ((), ("--raw",)):
        assert json.loads(call(transport, *arguments).stdout) == transport.result
    envelope = json.loads(call(transport, "--json").stdout)
    assert envelope["result"] == transport.result == envelope["files"]


def test_the_envelope_names_the_saved_files(call):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = [transport.reference("a.png")]
    assert json.loads(call(transport, "--json", "-o", "out").stdout)["result"] == ["out/a.png"]


def test_a_terminal_shows_what_there_is_and_how_to_get_it(call):
    transport = FileTransport(files={"a.png": PNG * 16})
    transport.result = {"picture": transport.reference("a.png")}
    shown = call(transport, terminal=True)
    assert "a.png (image/png, 47 KiB)" in shown.stdout and "sha256" not in shown.stdout
    assert shown.stderr == f"`orchestrator runs result {RUN[:8]} -o DIR` saves the file.\n"


def test_the_files_of_a_run_that_has_ended_are_saved(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG})
    transport.result = {"picture": transport.reference("a.png")}
    call(transport, "runs", "result", RUN, "-o", "out")
    assert (tmp_path / "out/a.png").read_bytes() == PNG


# Streams


def test_files_in_items_are_saved_as_they_come(call, tmp_path):
    transport = FileTransport(files={"a.png": PNG, "b.png": JPEG})
    transport.items = [{"frame": 1, "picture": transport.reference("a.png")}, transport.reference("b.png")]
    shown = call(transport, "-o", "out", "--raw").stdout
    assert shown == '{"frame": 1, "picture": "out/a.png"}\nout/b.png'
    assert names(tmp_path / "out") == ["a.png", "b.png"]


PART_KINDS = [
    (PNG, {"output_schema": None}, None, "draw.png"),
    (PNG, BYTES, None, "draw.png"),
    (NOISE, BYTES, None, "draw.bin"),
    (b"", BYTES, None, "draw.bin"),
    (NOISE, {"output_schema": {"anyOf": [BYTES["output_schema"], {"type": "null"}]}}, None, "draw.bin"),
    (PNG, {"output_schema": None}, "image/png", "draw.png"),
    (b"1,2\n" * 600, {"output_schema": None}, "text/csv", "draw.csv"),
    (NOISE, {"output_schema": None}, "application/x-unheard-of", "draw.bin"),
]


@pytest.mark.parametrize(("content", "tool", "media_type", "name"), PART_KINDS)
@pytest.mark.parametrize("stored", [False, True], ids=["streamed", "stored"])
def test_a_result_in_parts_is_one_whole_file(call, tmp_path, content, tool, media_type, name, stored):
    parts = [encoded(part) for part in (content[:1000], content[1000:2990], content[2990:])]
    items = parts if media_type is None else [{"media_type": media_type, "data": part, "n": 1} for part in parts]
    transport = FileTransport(items=items, tool={"streaming": True, **tool})
    transport.result = items if stored else None
    command = ("runs", "result", RUN) if stored else ()
    shown = call(transport, *command, "-o", "out", "--raw").stdout
    assert shown == (f'["out/{name}"]\n' if stored else f"out/{name}")
    assert names(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_bytes() == content
    envelope = json.loads(call(transport, *command, "-o", "out", "--json").stdout)
    assert envelope["result"] == [f"out/{name}"]
    assert names(tmp_path / "out") == [name]
    assert call(transport, *command, "-o", f"one.{name}").exit_code == 0
    assert (tmp_path / f"one.{name}").read_bytes() == content


def test_each_whole_picture_is_a_file_of_its_own(call, tmp_path):
    transport = FileTransport(items=[encoded(PNG), encoded(JPEG), {"n": 1}, encoded(JPEG), encoded(JPEG)])
    shown = call(transport, "-o", "out", "--raw").stdout
    assert shown == 'out/draw.pngout/draw.jpg{"n": 1}\nout/draw.jpgout/draw.jpg'
    assert names(tmp_path / "out") == ["draw.jpg", "draw.png"]


def test_a_stream_that_breaks_off_leaves_no_part_behind(call, tmp_path):
    transport = FileTransport(items=[{"media_type": "image/png", "data": encoded(PNG)}])
    failed = {"ok": False, "status": 502, "error": "it broke", "error_type": "RuntimeError", "result": None}
    transport.envelope = lambda: failed
    assert "it broke" in call(transport, "-o", "out", code=1).stderr
    assert names(tmp_path / "out") == []


def test_a_terminal_shows_no_base64(call):
    parts = [encoded(part) for part in (NOISE[:1500], NOISE[1500:])]
    cases = [
        FileTransport(items=parts, tool=BYTES),
        FileTransport(items=[{"media_type": "image/png", "data": part} for part in parts]),
        FileTransport(items=[encoded(PNG)]),
        FileTransport([{"media_type": "image/png", "data": parts[0]}, encoded(PNG)]),
        FileTransport(encoded(NOISE), tool={**BYTES, "streaming": False}),
    ]
    for transport in cases:
        shown = call(transport, terminal=True)
        assert len(shown.stdout) < 200, shown.stdout
        assert "KiB" in shown.stdout and "-o" in shown.stderr
    assert call(cases[1], terminal=True).stdout == "draw.png (image/png, 2.9 KiB in 2 parts)\n"
    assert json.loads(call(FileTransport(items=parts, tool=BYTES), "--json").stdout)["result"] == parts


@pytest.mark.parametrize("text", ["Adam", "", "a" * 400, "Hello, Ada!"])
@pytest.mark.parametrize("schema", [None, {"type": "string"}])
def test_a_text_is_a_text(call, text, schema):
    for transport in (
        FileTransport(text, tool={"output_schema": schema, "streaming": False}),
        FileTransport(items=[text], tool={"output_schema": schema}),
    ):
        assert call(transport, "-o", "out").stdout == text + "\n" == call(transport, terminal=True).stdout


# Base64 in results


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a" * 400,
        "iVBORw0KGgo=",
        encoded(b"plain words " * 20),
        "data:,x",
        encoded(PNG)[:-1],
        {"media_type": "image/png", "data": "no base64!"},
        {"media_type": "png", "data": encoded(PNG)},
        {"media_type": 1, "data": encoded(PNG)},
        {"data": encoded(PNG)},
        ["a"],
        None,
    ],
)
def test_what_is_no_file_is_not_taken_for_one(value):
    assert inline_file(value) is None


@pytest.mark.parametrize(
    ("value", "content", "extension"),
    [
        (encoded(PNG), PNG, "png"),
        (encoded(JPEG), JPEG, "jpg"),
        (encoded(b"RIFF0000WEBP" + bytes(60)), b"RIFF0000WEBP" + bytes(60), "webp"),
        (encoded(b"%PDF" + bytes(60)), b"%PDF" + bytes(60), "pdf"),
        ("data:text/plain;base64,aGk=", b"hi", "txt"),
        ("data:image/png;base64," + encoded(PNG), PNG, "png"),
        ({"media_type": "text/csv; charset=utf-8", "data": "MSwy"}, b"1,2", "csv"),
        ({"media_type": "x/y", "data": ""}, b"", "bin"),
    ],
)
def test_files_are_recognised(value, content, extension):
    file = inline_file(value)
    assert file is not None and (file.content, file.extension) == (content, extension)


def test_files_that_stand_in_a_result_are_saved_under_the_way_to_them(call, tmp_path):
    content = encoded(PNG)
    transport = FileTransport({"../x": content, "list": [1, {"media_type": "text/csv", "data": "MSwy", "n": 2}]})
    shown = json.loads(call(transport, "-o", "out").stdout)
    assert shown["../x"] == "out/draw-.._x.png"
    assert shown["list"][1] == {"media_type": "text/csv", "data": "out/draw-list-2.csv", "n": 2}
    assert (tmp_path / "out/draw-list-2.csv").read_bytes() == b"1,2"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, None),
        ({}, False),
        ({"type": "string"}, False),
        ({"type": "object", "contentEncoding": "base64"}, False),
        ({"type": "string", "contentEncoding": "base64"}, True),
        ({"anyOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "string"}]}, False),
        ({"anyOf": [{"type": "string", "contentEncoding": "base64"}, {"$ref": "#/$defs/X"}]}, True),
    ],
)
def test_the_schema_says_whether_texts_are_bytes(schema, expected):
    assert texts_are_bytes(schema) is expected


def test_a_part_that_starts_like_a_whole_begins_a_file_only_of_formats_that_cannot_go_on_so():
    def starts(*items, are_bytes=None):
        parts = Parts(are_bytes=are_bytes)
        return [taken and taken[1] for taken in map(parts.take, items)]

    archive, picture = encoded(b"PK\x03\x04" + bytes(60)), encoded(JPEG)
    assert starts(archive, archive, are_bytes=True) == [True, False]
    assert starts(picture, picture, are_bytes=True) == [True, True]
    motion = {"media_type": "video/x-motion-jpeg", "data": picture}
    assert starts(motion, motion) == [True, False]
    assert starts(motion, motion | {"media_type": "image/jpeg"}) == [True, True]
    assert starts("text", picture, "aGk=", {"n": 1}, "aGk=") == [None, True, False, None, None]
    assert InlineFile(JPEG).extension == "jpg"
