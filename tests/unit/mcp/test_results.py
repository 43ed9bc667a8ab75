"""Answers to calls, from result envelopes."""

import base64
from typing import Any

import pytest

from orchestrator.mcp import results
from orchestrator.mcp.backend import MAX_CONTENT, StoredContent

RUN = "0123456789abcdef" * 2


def envelope(**members: Any) -> dict[str, Any]:
    return {"ok": True, "result": None, "error": None, "error_type": None, "reason_code": None, "source": "plugin",
            "run_id": RUN, "files": [], **members}  # fmt: skip


def file(name: str, media_type: str, size: int = 3) -> dict[str, Any]:
    return {
        "file": name,
        "media_type": media_type,
        "size": size,
        "sha256": "0" * 64,
        "url": f"/v1/runs/{RUN}/files/{name}",
    }


@pytest.mark.parametrize(
    ("media_type", "size", "inline"),
    [
        ("image/png", 3, True),
        ("image/jpeg; q=1", 3, True),
        ("image/svg+xml", 3, False),  # models take none, and it may have scripts
        ("image/tiff", 3, False),
        ("audio/mpeg", MAX_CONTENT, True),
        ("image/png", MAX_CONTENT + 1, False),
        ("video/mp4", 3, False),
        ("text/plain", 3, False),
    ],
)
def test_which_files_are_content(media_type: str, size: int, inline: bool) -> None:
    assert results.is_inline(file("a", media_type, size)) is inline


def test_a_success_has_text_structured_content_files_and_the_run() -> None:
    """A file that is gone meanwhile is a link, like one that is no content."""
    files = [file("a.png", "image/png"), file("b.png", "image/png"), file("t.csv", "text/csv")]
    stored = {"a.png": StoredContent("image/png", 3, b"abc")}
    answer = results.success(envelope(result={"n": 1}, files=files), {}, stored, "http://host:1")
    text, picture, gone, table = answer["content"]
    assert text == {"type": "text", "text": '{"n":1}'}
    assert picture == {"type": "image", "data": base64.b64encode(b"abc").decode(), "mimeType": "image/png"}
    assert (gone["type"], gone["uri"]) == ("resource_link", f"http://host:1/v1/runs/{RUN}/files/b.png")
    assert (table["type"], table["mimeType"], table["size"]) == ("resource_link", "text/csv", 3)
    assert answer["structuredContent"] == {"n": 1}
    assert answer["isError"] is False and answer["_meta"] == {"plugin-orchestrator/run_id": RUN}


@pytest.mark.parametrize("result", [{"a": "ü"}, [1, 2], "plain text", 3, None, 1.5])
def test_a_text_is_itself_and_all_else_is_json(result: Any) -> None:
    (text,) = results.success(envelope(result=result), {}, {}, "")["content"]
    assert text["text"] in (result, '{"a":"ü"}', "[1,2]", "3", "null", "1.5")


def test_a_failure_says_what_happened_and_what_names_it() -> None:
    """A plugin's exception with its type, since many a message says little without."""
    failed = envelope(ok=False, error="division by zero", error_type="ZeroDivisionError", reason_code="TOOL_ERROR")
    answer = results.failure(failed)
    text = answer["content"][0]["text"]
    assert text == (
        f"ZeroDivisionError: division by zero\n(reason_code: TOOL_ERROR; error_type: ZeroDivisionError; run_id: {RUN})"
    )
    assert answer["isError"] is True and "structuredContent" not in answer
    ours = envelope(ok=False, error="The queue is full.", error_type="QueueFull", source="orchestrator",
                    run_id=None, retry_after_seconds=2.0)  # fmt: skip
    assert results.failure(ours)["content"][0]["text"] == (
        "The queue is full.\n(error_type: QueueFull; retry_after_seconds: 2.0)"
    )


def test_a_result_over_the_bound_is_a_failure_that_says_so() -> None:
    answer = results.success(envelope(result="x" * (MAX_CONTENT + 1)), {}, {}, "")
    assert answer["isError"] is True and "4 MiB" in answer["content"][0]["text"]


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        (f"http://127.0.0.1:8000/v1/runs/{RUN}/files/a.png", (RUN, "a.png")),
        (f"https://tools.example/prefix/v1/runs/{RUN}/files/a%20b.png", (RUN, "a b.png")),
        (f"/v1/runs/{RUN}/files/a.png?x=1", (RUN, "a.png")),
        (f"http://h/v1/runs/{RUN}/files/a/b", None),
        ("http://h/v1/runs/short/files/a", None),
        ("file:///etc/passwd", None),
        (f"http://h/v1/runs/{RUN}/result", None),
        ("http://[", None),
    ],
)
def test_links_lead_back_to_a_run_and_a_file(uri: str, named: tuple[str, str] | None) -> None:
    """By whatever name the client knows the host; nothing else is a file."""
    assert results.file_named(uri) == named


def test_a_file_is_read_as_text_where_it_is_one() -> None:
    """By its type, if it is UTF-8; else as it is."""
    assert results.resource("u", StoredContent("text/csv", 3, b"a,b"))["text"] == "a,b"
    assert results.resource("u", StoredContent("application/json", 2, b"{}"))["text"] == "{}"
    assert results.resource("u", StoredContent("text/plain", 1, b"\xff"))["blob"] == "/w=="
    assert results.resource("u", StoredContent("image/png", 1, b"\xff"))["blob"] == "/w=="
    assert results.resource("u", StoredContent("image/png", MAX_CONTENT + 1, None)) is None
