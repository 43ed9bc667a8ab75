"""Files in results are recognised by their content; a text stays a text."""

from __future__ import annotations

import base64

import pytest

from orchestrator.cli.result_files import files_in, save

PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)


def encoded(content):
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    "text", ["", "a" * 400, "iVBORw0KGgo=", encoded(b"plain words " * 20), "data:,x", encoded(PNG)[:-1]]
)
def test_a_text_that_is_no_file_is_unchanged(text):
    assert list(files_in({"text": [text]})) == []


@pytest.mark.parametrize(
    ("content", "extension"),
    [
        (PNG, "png"),
        (b"\xff\xd8\xff" + bytes(60), "jpg"),
        (b"RIFF0000WEBP" + bytes(60), "webp"),
        (b"%PDF" + bytes(60), "pdf"),
    ],
)
def test_files_are_recognised_by_their_first_bytes(content, extension):
    assert list(files_in([1, {"a": encoded(content)}])) == [(("2", "a"), content, extension)]


def test_no_name_in_a_result_escapes_the_folder(tmp_path):
    result = save({"../../x": encoded(PNG), "/etc/y": encoded(PNG)}, tmp_path / "out", "tool")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tool-.._.._x.png", "tool-_etc_y.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert set(result.values()) == {str(path) for path in (tmp_path / "out").iterdir()}
