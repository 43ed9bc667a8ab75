"""`explain` needs no orchestrator."""

import json

from typer.testing import CliRunner

from orchestrator.cli import commands
from orchestrator.lifecycle.explanations import EXPLANATIONS


def explained(*arguments: str):
    return CliRunner().invoke(commands.command_line("explain"), ["explain", *arguments])


def test_a_code_is_explained_in_words() -> None:
    printed = explained("OUT_OF_MEMORY")
    assert printed.exit_code == 0
    for words in ("reason code of FAILED", "raise the limit", 'orchestrator.fault("detector", "OUT_OF_MEMORY")'):
        assert words in " ".join(printed.output.split())


def test_programs_get_json() -> None:
    """One object for a code, a list of all without one."""
    assert json.loads(explained("queue-full", "--json").output)["status"] == 429
    assert {each["name"] for each in json.loads(explained("--json").output)} == set(EXPLANATIONS)


def test_without_a_code_all_are_listed() -> None:
    assert all(name in explained().output for name in EXPLANATIONS)


def test_an_unknown_code_is_answered_by_what_was_meant() -> None:
    """Exit code 2, as for any wrong argument."""
    printed = explained("CRASHD")
    assert printed.exit_code == 2
    assert "Did you mean CRASHED" in printed.output


def test_it_prints_the_page() -> None:
    assert explained("--markdown").output.startswith("# Reason codes")
