"""samples/calls.yaml: what is read, what is refused and in which words, and what is sent."""

from email import message_from_bytes
from pathlib import Path

import pytest
from support.checkout import PROJECT

from orchestrator.loader.samples import Sample, SamplesError, Tolerance, read_samples

PNG = b"\x89PNG picture"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "reader"
    (found / "samples").mkdir(parents=True)
    (found / "samples" / "page.png").write_bytes(PNG)
    return found


def write(folder: Path, text: str) -> tuple[Sample, ...]:
    (folder / "samples" / "calls.yaml").write_text(text)
    return read_samples(folder)


def test_a_plugin_without_the_file_has_no_calls(tmp_path: Path) -> None:
    assert read_samples(tmp_path) == ()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[]"])
def test_an_empty_file_has_no_calls(folder: Path, text: str) -> None:
    assert write(folder, text) == ()


def test_a_call_knows_its_place(folder: Path) -> None:
    calls = write(folder, "# calls\n- tool: a\n\n- tool: b\n  files:\n  arguments:\n")
    assert [each.where for each in calls] == [
        "call 1 of samples/calls.yaml (a, line 2)",
        "call 2 of samples/calls.yaml (b, line 4)",
    ]
    assert [each.call.expect.status for each in calls] == [200, 200]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- tool: [", "reader/samples/calls.yaml: is not valid YAML in line 2: "),
        ("tool: a", "reader/samples/calls.yaml: expected a list of calls, each beginning with `- tool:`, not a dict"),
        ("- a", "reader/samples/calls.yaml, line 1: expected a call such as `tool: read_text`, not a str"),
        ("- tool: a\n-", "reader/samples/calls.yaml, line 2: expected a call such as `tool: read_text`, not nothing"),
        ("- tool: a\n- tools: b", "reader/samples/calls.yaml, line 2: tool: required field is missing; tools: unknown"),
        ("- tool: 3", "line 1: tool: expected a text, not 3; put it in quotes"),
        ("- {tool: a, files: {x: ../y}}", "line 1: files.x"),
        ("- {tool: a, files: {x: /etc/passwd}}", "expected the name of a file in samples/, not '/etc/passwd'"),
        ("- {tool: a, files: {x: y}, arguments: {x: 1}}", "call: x stands under `arguments` and under `files`"),
        ("- {tool: a, arguments: {when: 2026-01-01}}", "arguments.when: expected a value that JSON has"),
        ("- {tool: a, needs: tpu}", "needs: Input should be 'gpu', not 'tpu'"),
        ("- {tool: a, expect: {status: 500}}", "expect.status: Input should be 200, 400, 413, 415 or 422, not 500"),
        ("- {tool: a, expect: {status: 422, min_items: 1}}", "expect: expected no min_items beside status 422"),
        ("- {tool: a, expect: {status: 422, contains: [1]}}", "expect: expected a text under `contains`"),
        ("- {tool: a, expect: {tolerance: 1}}", "expect: expected `equals` or `contains` beside `tolerance`"),
        ("- {tool: a, expect: {equals: 1, tolerance: much}}", "expect.tolerance: expected a number, such as 0.01"),
        ("- {tool: a, expect: {equals: 1, tolerance: -1}}", "expect.tolerance: expected a number, such as 0.01"),
        ("- {tool: a, expect: {equals: 1, tolerance: true}}", "expect.tolerance: expected a number, such as 0.01"),
        ("- {tool: a, expect: {equals: 1, tolerance: .nan}}", "expect.tolerance: expected a number, such as 0.01"),
        ("- {tool: a, expect: {files: [{media: image/png}]}}", "expect.files.0.media: unknown field"),
        ("- &x {tool: a}\n- *x", "aliases (*name) are not supported"),
        ("- {tool: a}\n" * 101, "expected at most 100 calls, not 101"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(SamplesError) as refused:
        write(folder, text)
    assert sentence in str(refused.value)
    assert str(folder.parent) not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [("0.5", Tolerance(absolute=0.5)), ("2%", Tolerance(relative=0.02)), ("0", Tolerance())],
)
def test_a_tolerance_is_a_number_or_a_share(folder: Path, text: str, tolerance: Tolerance) -> None:
    (call,) = write(folder, f"- {{tool: a, expect: {{equals: 1, tolerance: {text}}}}}")
    assert call.call.expect.tolerance == tolerance


def test_without_files_the_arguments_are_sent_as_json(folder: Path) -> None:
    (call,) = write(folder, "- {tool: a, arguments: {text: Ä, top: 3, sure: true, more: [1, null]}}")
    assert call.body() == ("application/json", '{"text": "Ä", "top": 3, "sure": true, "more": [1, null]}'.encode())


def test_with_files_it_is_a_form(folder: Path) -> None:
    """A text goes as it is, everything else as JSON; several files of one parameter come one after the other."""
    (folder / "samples" / "more").mkdir()
    (folder / "samples" / "more" / "x.unknown").write_bytes(b"\0\1")
    (call,) = write(
        folder, "- {tool: a, arguments: {text: Ä, top: 3, many: [a]}, files: {pages: [page.png, more/x.unknown]}}"
    )
    content_type, body = call.body()
    form = message_from_bytes(f"Content-Type: {content_type}\n\n".encode() + body)
    parts = [
        (part.get_param("name", header="Content-Disposition"), part.get_filename(), part.get_payload(decode=True))
        for part in form.get_payload()
    ]
    assert parts == [
        ("text", None, "Ä".encode()),
        ("top", None, b"3"),
        ("many", None, b'["a"]'),
        ("pages", "page.png", PNG),
        ("pages", "x.unknown", b"\0\1"),
    ]
    types = [part.get_content_type() for part in form.get_payload()][-2:]
    assert types == ["image/png", "application/octet-stream"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.png", None, "samples/gone.png cannot be read on this host: No such file or directory. Put it there"),
        (
            "page.png",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "samples/page.png is a Git LFS pointer and not the file; run `git lfs pull`.",
        ),
    ],
)
def test_a_file_that_this_host_lacks_is_named(folder: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (folder / "samples" / name).write_bytes(content)
    (call,) = write(folder, f"- {{tool: a, files: {{image: {name}}}}}")
    for look in (call.check_files, call.body):
        with pytest.raises(SamplesError) as refused:
            look()
        assert sentence in str(refused.value)
        assert str(refused.value).startswith("call 1 of samples/calls.yaml (a, line 1): ")
        assert str(folder.parent) not in str(refused.value)


def test_files_that_are_too_large_are_refused_before_they_are_read(folder: Path) -> None:
    with (folder / "samples" / "big.bin").open("wb") as file:
        file.truncate(64 * 1024**2 + 1)
    (call,) = write(folder, "- {tool: a, files: {image: big.bin}}")
    with pytest.raises(SamplesError, match="together; expected at most 64 MiB"):
        call.body()


def every_calls_file() -> list[Path]:
    found = [
        *PROJECT.glob("plugins/*/samples/calls.yaml"),
        *PROJECT.glob("tests/real_packages/plugins/*/samples/calls.yaml"),
    ]
    assert len(found) > 5
    return found


@pytest.mark.parametrize("path", every_calls_file(), ids=lambda path: path.parts[-3])
def test_every_file_in_this_project_is_valid(path: Path) -> None:
    assert read_samples(path.parents[1])
