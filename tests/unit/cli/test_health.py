"""`orchestrator health` shows the whole post-mortem of an instance that ended."""

from __future__ import annotations

import pytest

STACKS = "Thread 0x00007f (most recent call first):\n" + "\n".join(
    f'  File "/usr/local/lib/python3.11/site-packages/some_package/some_module_{n}.py", line {n} in a_long_name'
    for n in range(40)
)
TEXTS = {
    "stacks": STACKS,
    "traceback": f"Traceback:\n{'x' * 300} [/red]\n\tValueError: :warning:\n",
    "build_output": "#7 " + "y" * 200,
    "log_tail": "one line\n    another\n",
}


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_stacks_traceback_and_output_stand_whole_below_the_table_each_under_its_heading(api, columns):
    api.says("/v1/plugins/echo/health", api.plugin(post_mortem={"exit_code": 139, **TEXTS}))
    result = api.call("health", "echo", columns=columns)
    assert result.exit_code == 1
    for name, text in TEXTS.items():
        assert f"\n\npost_mortem.{name}\n{text.rstrip()}\n" in result.stdout
    table = result.stdout.partition("\n\n")[0]
    assert "post_mortem.exit_code" in table and "139" in table
    assert "stacks" not in table


def test_no_heading_stands_over_nothing(api):
    api.says("/v1/plugins/echo/health", api.plugin(post_mortem=dict.fromkeys(TEXTS, "")))
    assert "post_mortem" not in api.call("health", "echo").stdout


def test_a_long_word_in_the_table_is_folded_and_not_cut(api):
    api.says("/v1/plugins/echo/health", api.plugin(container={"image": "z" * 150}, reason="w" * 150))
    stdout = api.call("health", "echo").stdout
    assert (stdout.count("z"), stdout.count("w")) == (150, 150)


def test_a_reason_of_several_lines_is_printed_as_it_is(api):
    api.says("/v1/plugins/echo/health", api.plugin(reason="first\n    second"))
    assert "\n\nreason\nfirst\n    second\n" in api.call("health", "echo").stdout


def test_nested_values_are_written_without_programming_syntax(api):
    evidence = {"tool": "greet", "worker_signal": None, "execution_ms": 11.775143000704702}
    api.says("/v1/plugins/echo/health", api.plugin(post_mortem={"evidence": evidence, "gpus": []}))
    shown = api.call("health", "echo").stdout
    assert "tool: greet, execution_ms: 11.775" in shown
    assert "gpus" not in shown and "None" not in shown


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        (
            "UNAVAILABLE",
            "PARKED",
            "It is UNAVAILABLE: PARKED. `orchestrator start echo` starts it; so does its first run.",
        ),
        ("UNAVAILABLE", "STOPPED", "`orchestrator start echo` starts it."),
        ("FAILED", "INIT_ERROR", "It is FAILED: INIT_ERROR. `orchestrator health echo` says why."),
        ("LOADED", None, "It still starts. `orchestrator health echo` says what goes on."),
        ("RUNNING", None, "echo has no tools."),
    ],
)
def test_tools_that_are_not_known_are_said_to_be(api, state, code, said):
    api.says("/v1/plugins/echo/tools", [])
    api.says("/v1/plugins/echo/health", api.plugin(state=state, reason_code=code))
    result = api.call("tools", "echo", columns=200)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.strip().endswith(said)
    assert api.call("tools", "echo", "--json").stdout.strip() == "[]"
