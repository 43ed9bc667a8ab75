"""`orchestrator keys`: a key is shown once, and removed at once."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.cli import commands


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(commands.command_line("keys"), ["keys", *arguments])


def test_add_prints_the_key_alone_for_scripts(state: Path) -> None:
    """Everything else goes to stderr."""
    made = keys("add", "ci", "--role", "operator")
    text = made.stdout.strip()
    found = KeyStore(state).load().find(text)
    assert found is not None and (found.name, found.role, found.expires) == ("ci", Role.OPERATOR, None)
    assert "ORCHESTRATOR_API_KEY" in made.stderr
    assert keys("add", "second").stderr == ""


def test_a_key_is_a_viewers_by_default(state: Path) -> None:
    """The least is the default."""
    keys("add", "ci", "--days", "30")
    (key,) = KeyStore(state).listed()
    assert key.role is Role.VIEWER
    assert key.expires is not None and round((key.expires - key.created).total_seconds() / 86400) == 30


def test_list_shows_everything_but_the_key(state: Path) -> None:
    """Name, role, last characters, days."""
    text = keys("add", "ci").stdout.strip()
    listed = keys("list").stdout
    assert "ci" in listed and "viewer" in listed and f"…{text[-4:]}" in listed
    assert text not in listed


def test_remove_removes_one(state: Path) -> None:
    """And says so if it was the last."""
    keys("add", "ci"), keys("add", "other")
    assert keys("remove", "ci").exit_code == 0
    assert [key.name for key in KeyStore(state).listed()] == ["other"]
    assert "last key" in keys("remove", "other").stderr
    unknown = keys("remove", "other")
    assert unknown.exit_code == 1 and "No key named 'other'" in unknown.stderr


def test_mistakes_are_reported_in_a_sentence(state: Path) -> None:
    """No traceback."""
    keys("add", "ci")
    again, odd = keys("add", "ci"), keys("add", "a b")
    assert again.exit_code == odd.exit_code == 1
    assert "already" in again.stderr and "expected a name" in odd.stderr
    (state / "keys.json").write_text("{")
    broken = keys("list")
    assert broken.exit_code == 1 and "keys.json" in broken.stderr
