"""`orchestrator run` prints a sentence for any answer."""

from __future__ import annotations

import base64

import pytest

from orchestrator.cli import file_output

ANSWERS = [
    (404, {"ok": False, "error": "No plugin named 'x'."}, "404: No plugin named 'x'."),
    (404, {"error": "removed", "error_type": "UnknownPlugin"}, "UnknownPlugin: removed"),
    (500, {}, "status 500 and has no envelope"),
    (502, [], "status 502 and is not an object"),
    (502, "<html>", "no JSON"),
]


@pytest.mark.parametrize(("status", "body", "said"), ANSWERS)
def test_an_answer_that_lacks_fields_is_a_sentence_and_exit_code_1(api, status, body, said):
    api.says("/v1/plugins/x/tools/t/run", body, status)
    result = api.call("run", "x", "t")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert said in result.stderr


@pytest.mark.parametrize(("kind", "code"), [("InstanceEnded", 1), ("PluginUnavailable", 4)])
def test_a_run_whose_instance_was_ended_is_no_plugin_that_takes_none(api, kind, code):
    body = {"ok": False, "error": "The update a1 replaced it.", "error_type": kind, "reason_code": "STOPPED"}
    api.says("/v1/plugins/x/tools/t/run", body, 503)
    result = api.call("run", "x", "t")
    assert (result.exit_code, "STOPPED: The update a1 replaced it." in result.stderr) == (code, True)


def test_a_result_is_printed(api):
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": "[/text]"})
    assert api.call("run", "x", "t").stdout == "[/text]\n"


@pytest.mark.parametrize(
    ("options", "prefer"),
    [((), None), (("--retry",), "retry"), (("--retry", "--async"), "respond-async, retry")],
)
def test_a_run_is_to_be_made_again_only_if_it_says_so(api, options, prefer):
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": 1, "run_id": "a", "state": "queued"})
    api.call("run", "x", "t", *options)
    assert api.headers[-1].get("prefer") == prefer


@pytest.fixture
def sent(api, tmp_path, monkeypatch):
    """Runs a tool with two files `a`, `b` in the current folder; the body that was sent."""
    for name in "ab":
        (tmp_path / name).write_text(f"content of {name}")
    monkeypatch.chdir(tmp_path)
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": 1})

    def sent(*arguments: str) -> bytes:
        result = api.call("run", "x", "t", *arguments)
        assert result.exit_code == 0, result.stderr
        return api.bodies[-1]

    return sent


def test_files_for_one_parameter_are_sent_in_their_order(sent):
    body = sent("-i", "images=b", "-i", "images=a", "-p", "mode=fast")
    assert body.count(b'name="images"; filename=') == 2
    assert 0 < body.index(b"content of b") < body.index(b"content of a")


def test_files_for_two_parameters_are_sent_apart(sent):
    body = sent("-i", "first=a", "-i", "second=b", "-i", "first=b")
    assert [body.count(b'name="%s"; filename=' % name) for name in (b"first", b"second")] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-i", "x=a", "-p", "x=1"), "x is given both with -p and with -i"),
        (("-i", "x=-", "-i", "y=-"), "stdin can be read once"),
        (("-i", "x=a", "-i", "x=missing"), "Cannot read missing"),
    ],
)
def test_files_that_cannot_be_sent_are_a_sentence(api, tmp_path, monkeypatch, arguments, sentence):
    (tmp_path / "a").touch()
    monkeypatch.chdir(tmp_path)
    result = api.call("run", "x", "t", *arguments)
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr
    assert api.bodies == []


PHOTO = {
    "name": "t",
    "description": "",
    "input_schema": {"type": "object", "properties": {"photo": {}, "mask": {}, "n": {}}, "required": ["photo"]},
    "output_schema": None,
    "streaming": False,
    "uploads": {"photo": "path", "mask": "bytes"},
}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-p", "photo=x.jpg"), "'photo=x.jpg': photo is a file, which is given with -i: -i photo=x.jpg"),
        (("-i", "photo=a", "-p", "mask=m.png", "-p", "mask=b"), "-i mask=m.png"),
        (("-p", "photo="), "-i photo=FILE"),
        ((), "photo: it is missing, and is a file: give it with -i photo=FILE"),
        (("-p", "n=1"), "-i photo=FILE"),
        (("--async", "-p", "photo=x.jpg"), "-i photo=x.jpg"),
    ],
)
def test_a_file_that_is_given_as_a_text_is_refused_before_anything_is_sent(
    api, tmp_path, monkeypatch, arguments, sentence
):
    (tmp_path / "a").touch()
    monkeypatch.chdir(tmp_path)
    api.says("/v1/plugins/x/tools", [PHOTO])
    result = api.call("run", "x", "t", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert api.bodies == []


def test_files_are_sent_where_the_tool_is_known_too(sent, api):
    api.says("/v1/plugins/x/tools", [PHOTO])
    assert b'name="photo"; filename="a"' in sent("-i", "photo=a", "-p", "n=1")


def picture(content: bytes) -> dict[str, str]:
    return {"media_type": "image/png", "data": base64.b64encode(content).decode()}


def test_the_one_file_of_a_result_can_go_to_stdout(api, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": {"n": 1, "image": picture(content)}})
    result = api.call("run", "x", "t", "-o", "-")
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, content, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({"a": picture(b"a"), "b": picture(b"b")}, "The result holds 2 files, and stdout is for one."),
        ({"n": 1}, "The result holds no file"),
    ],
)
def test_stdout_is_for_one_file(api, tmp_path, monkeypatch, result, sentence):
    monkeypatch.chdir(tmp_path)
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": result})
    done = api.call("run", "x", "t", "-o", "-")
    assert (done.exit_code, done.stdout_bytes) == (1, b"")
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "code"), [(b"\x89PNG\0", 1), (b"a,b\n1,2\n", 0)])
def test_a_terminal_gets_no_binary_file(api, monkeypatch, content, code):
    monkeypatch.setattr(file_output, "_on_terminal", lambda: True)
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": picture(content)})
    done = api.call("run", "x", "t", "-o", "-")
    assert (done.exit_code, done.stdout_bytes) == (code, b"" if code else content)
    assert ("stdout is a terminal" in done.stderr) is bool(code)


def test_stdout_cannot_hold_the_envelope_too(api):
    assert api.call("run", "x", "t", "-o", "-", "--json").exit_code == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("bad value", "TOOL_ERROR: ValueError: bad value"),
        ("", "TOOL_ERROR: ValueError"),
        ("ValueError: bad", "TOOL_ERROR: ValueError: bad"),
    ],
)
def test_what_a_tool_raised_is_named_with_its_type(api, error, said):
    envelope = {"ok": False, "error": error, "error_type": "ValueError", "reason_code": "TOOL_ERROR"}
    api.says("/v1/plugins/x/tools/t/run", envelope, 502)
    result = api.call("run", "x", "t")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (1, said)
