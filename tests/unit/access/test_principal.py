"""What a caller may do and see, and how that is stored."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.access.key_store import KeyFileError, KeyStore
from orchestrator.access.keys import ApiKey, Role
from orchestrator.access.principal import (
    ALL_RIGHTS,
    ANYONE,
    STRANGER,
    Grant,
    Principal,
    Priority,
    Rate,
    Right,
    Share,
    plugin_patterns,
)

RUN = Grant(frozenset({Right.RUN}), ("det-*", "ocr"), Share(Priority.LOW, 3, 2, Rate(60, 60.0)))


@pytest.mark.parametrize(
    ("rights", "may", "every_run"),
    [
        (set(), set(), True),
        ({Right.READ}, {Right.READ}, True),
        ({Right.RUN}, {Right.READ, Right.RUN}, False),
        ({Right.OPERATE}, {Right.READ, Right.OPERATE}, True),
        (set(Right), set(Right), True),
    ],
)
def test_each_right_brings_reading_and_no_other(rights: set[Right], may: set[Right], every_run: bool) -> None:
    """A caller that runs and does not operate sees its own runs alone."""
    who = Principal("ci", Grant(frozenset(rights)))
    assert {right for right in Right if who.may(right)} == may
    assert {right for right in Right if who.may(right, "any")} == may
    assert who.sees_every_run is every_run
    assert who.sees_run("any", "ci") and who.sees_run("any", "other") is every_run


def test_roles_are_names_of_rights() -> None:
    """And a key with the rights of a role has it."""
    assert (Role.VIEWER.rights, Role.OPERATOR.rights) == ({Right.READ}, ALL_RIGHTS)


@pytest.mark.parametrize(("plugin", "seen"), [("det-a", True), ("det-", True), ("ocr", True), ("det", False),
                                              ("xdet-a", False), ("ocr2", False), ("*", False)])  # fmt: skip
def test_a_plugin_that_no_pattern_matches_does_not_exist(plugin: str, seen: bool) -> None:
    """For whatever right."""
    who = Principal("ci", RUN)
    assert who.sees(plugin) is seen
    assert [who.may(right, plugin) for right in (Right.READ, Right.RUN, Right.OPERATE)] == [seen, seen, False]
    assert who.sees_run(plugin, "ci") is seen and not who.sees_run(plugin, "other")


def test_without_keys_everyone_may_everything_and_a_stranger_nothing() -> None:
    """One is every caller while there is no key, the other one without a key where there are some."""
    assert all(ANYONE.may(right, "any") for right in Right) and ANYONE.sees_run("any", "other")
    assert not any(STRANGER.may(right) for right in Right) and not STRANGER.sees("any")


@pytest.mark.parametrize("text", ["", ",", "Det", "a/b", "a b", "[a]", "ä", "a" * 64, ",".join(["a"] * 51)])
def test_what_can_match_no_plugin_is_refused(text: str) -> None:
    """A pattern is of what names are made of, `*` and `?`."""
    with pytest.raises(ValueError, match="patterns"):
        plugin_patterns(text)


@given(st.integers(1, 99999), st.sampled_from(["s", "min", "h"]))
def test_a_rate_is_read_as_it_is_written(count: int, unit: str) -> None:
    """`60/min`."""
    assert str(Rate.parse(f"{count}/{unit}")) == f"{count}/{unit}"


@pytest.mark.parametrize("text", ["", "60", "0/s", "-1/s", "60/day", "1.5/s", "60/min ", "100000/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ValueError, match="60/min"):
        Rate.parse(text)


def test_what_a_key_grants_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    """All of it."""
    store = KeyStore(tmp_path)
    text = store.add("ci", RUN)
    found = KeyStore(tmp_path).load().find(text)
    assert found is not None and found.grant == RUN and found.role is None
    assert found.principal == Principal("ci", RUN)
    assert KeyStore(tmp_path).load().scoped


def test_a_file_of_before_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    """A key of a role alone has no new member: an older program reads it too."""
    store = KeyStore(tmp_path)
    store.add("eyes", Role.VIEWER)
    (written,) = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert set(written) == {"name", "role", "sha256", "hint", "created", "expires"}
    (key,) = KeyStore(tmp_path).listed()
    assert key.role is Role.VIEWER and not KeyStore(tmp_path).load().scoped


@pytest.mark.parametrize(
    "change",
    [
        {"role": None}, {"rights": ["run"]}, {"role": None, "rights": []}, {"role": None, "rights": ["all"]},
        {"plugins": []}, {"plugins": ["A"]}, {"priority": "top"}, {"weight": 0}, {"concurrency": 0}, {"rate": "1/day"},
    ],
)  # fmt: skip
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Rather than read as something that it does not say."""
    KeyStore(tmp_path).add("eyes", Role.VIEWER)
    content = json.loads((tmp_path / "keys.json").read_text())
    content["keys"][0] |= change
    (tmp_path / "keys.json").write_text(json.dumps(content))
    with pytest.raises(KeyFileError):
        KeyStore(tmp_path).load()


def test_a_key_is_changed_and_stays_the_same_key(tmp_path: Path) -> None:
    """Whoever has it goes on with it."""
    store = KeyStore(tmp_path)
    text, now = store.add("ci", Role.OPERATOR), datetime.now(UTC)

    def smaller(key: ApiKey) -> ApiKey:
        return ApiKey(key.name, RUN, key.sha256, key.hint, key.created, now)

    assert store.change("ci", smaller) == KeyStore(tmp_path).load().find(text)
    found = KeyStore(tmp_path).load().find(text)
    assert found is not None and (found.grant, found.expires) == (RUN, now)
    assert store.change("other", smaller) is None
