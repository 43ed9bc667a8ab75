"""`orchestrator run` prints a sentence for any answer."""

from __future__ import annotations

import pytest

ANSWERS = [
    (404, {"ok": False, "error": "No plugin named 'x'."}, "404: No plugin named 'x'."),
    (404, {"error": "removed", "error_type": "UnknownPlugin"}, "UnknownPlugin: removed"),
    (500, {}, "500: no reason was given"),
    (502, [], "no envelope"),
    (502, "<html>", "no JSON"),
]


@pytest.mark.parametrize(("status", "body", "said"), ANSWERS)
def test_an_answer_that_lacks_fields_is_a_sentence_and_exit_code_1(api, status, body, said):
    api.says("/v1/plugins/x/tools/t/run", body, status)
    result = api.call("run", "x", "t")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert said in result.stderr


def test_a_result_is_printed(api):
    api.says("/v1/plugins/x/tools/t/run", {"ok": True, "result": "[/text]"})
    assert api.call("run", "x", "t").stdout == "[/text]\n"
