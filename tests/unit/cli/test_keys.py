"""`orchestrator keys`: a key is shown once, and removed at once."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.access.key_store import KeyStore
from orchestrator.access.keys import Role
from orchestrator.access.principal import Grant, Priority, Rate, Right, Share
from orchestrator.cli import commands
from orchestrator.cli.console import EXIT_USAGE


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(commands.command_line("keys"), ["keys", *arguments])


def keys_line(line: str) -> Result:
    return keys(*line.split())


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


def test_a_key_may_what_its_options_say(state: Path) -> None:
    """And `list` says it."""
    made = keys_line("add ci --may run --plugins det-*,ocr --concurrency 2 --rate 60/min --priority low")
    assert made.exit_code == 0
    (key,) = KeyStore(state).listed()
    share = Share(Priority.LOW, concurrency=2, rate=Rate(60, 60.0))
    assert key.grant == Grant(frozenset({Right.READ, Right.RUN}), ("det-*", "ocr"), share)
    listed = " ".join(keys("list").stdout.split())
    for words in ("read,run", "det-*,ocr", "low, 2 at once,", "60/min"):
        assert words in listed


def test_change_changes_what_is_given_and_nothing_else(state: Path) -> None:
    """The key's text stays: whoever has it goes on."""
    text = keys_line("add ci --may run --plugins det-* --concurrency 2 --rate 60/min --days 3").stdout.strip()
    before = KeyStore(state).load().find(text)
    assert before is not None
    assert keys("change", "ci", "--concurrency", "0", "--weight", "3").exit_code == 0
    after = KeyStore(state).load().find(text)
    assert after is not None and after.expires == before.expires
    assert after.grant == Grant(before.grant.rights, ("det-*",), Share(weight=3, rate=Rate(60, 60.0)))
    keys("change", "ci", "--role", "operator", "--plugins", "*", "--rate", "none", "--weight", "1")
    (key,) = KeyStore(state).listed()
    assert key.grant == Role.OPERATOR.grant


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ("--role viewer --may run", "either --role or --may"),
        ("--may everything", "--may: expected rights of read, run, operate"),
        ("--may ,", "read, run, operate"),
        ("--plugins Det", "det-*"),
        ("--rate 60", "60/min"),
        ("--concurrency -1", "--concurrency"),
        ("--priority top", "--priority"),
    ],
)
def test_what_makes_no_key_is_refused(state: Path, options: str, phrase: str) -> None:
    """By `add` and by `change`; nothing is stored."""
    refused = keys("add", "odd", *options.split())
    assert refused.exit_code == EXIT_USAGE and phrase in refused.stderr
    keys("add", "ci")
    before = (state / "keys.json").read_bytes()
    assert keys("change", "ci", *options.split()).exit_code == EXIT_USAGE
    assert (state / "keys.json").read_bytes() == before


def test_patterns_that_match_no_plugin_are_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the key is made: the plugin may come. Without any plugin here nothing is known."""
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", str(state.parent / "plugins"))
    assert keys_line("add zero --plugins typo*").stderr.count("no plugin matches") == 0
    for name in ("det-a", "ocr"):
        (state.parent / "plugins" / name).mkdir(parents=True)
        (state.parent / "plugins" / name / "plugin.yaml").write_text("")
    made = keys_line("add one --plugins det-*,typo*")
    assert made.exit_code == 0 and made.stdout.startswith("po_")
    assert "--plugins: no plugin matches 'typo*' now; there are det-a, ocr" in made.stderr
    assert "det-*" not in made.stderr
    assert "no plugin matches 'x'" in keys_line("change one --plugins x").stderr
    assert "no plugin" not in keys_line("change one --plugins *").stderr


def test_change_says_what_it_misses(state: Path) -> None:
    """A key of this name, or something to change."""
    assert "No key named 'ci'" in keys("change", "ci", "--weight", "2").stderr
    keys("add", "ci")
    assert "Nothing to change" in keys("change", "ci").stderr


def test_a_proxys_user_is_no_key(state: Path) -> None:
    """Nothing is printed: there is nothing that anybody could send. It is listed, changed and removed as keys are."""
    made = keys_line("add ann@example.org --by-proxy --may run")
    assert made.exit_code == 0 and made.stdout == ""
    (entry,) = KeyStore(state).listed()
    assert entry.by_proxy and KeyStore(state).load().user("ann@example.org") == entry
    assert "by proxy" in keys("list").stdout
    assert keys_line("change ann@example.org --weight 2").exit_code == 0
    changed = KeyStore(state).load().user("ann@example.org")
    assert changed is not None and changed.grant.share.weight == 2
    assert keys("remove", "ann@example.org").exit_code == 0
