"""On whose behalf a front calls."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.access.delegation import encode, may_delegate, parse
from orchestrator.access.principal import ALL_RIGHTS, ANYONE, STRANGER, Grant, Principal, Priority, Rate, Right, Share

SHARES = st.builds(
    Share,
    st.sampled_from(Priority),
    st.integers(1, 100),
    st.none() | st.integers(1, 10**6),
    st.none() | st.builds(Rate, st.integers(1, 99999), st.sampled_from([1.0, 60.0, 3600.0])),
)
GRANTS = st.builds(
    Grant,
    st.frozensets(st.sampled_from(Right)),
    st.just(("*",)) | st.lists(st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True), min_size=1, max_size=5).map(tuple),
    SHARES,
)


@given(st.builds(Principal, st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", fullmatch=True), GRANTS))
def test_a_caller_survives_the_header(caller: Principal) -> None:
    """With its name, rights, plugins and share; the value can stand in a header."""
    text = encode(caller)
    assert text.isascii() and text.decode().isprintable()
    assert parse(text) == caller


def test_a_stranger_stays_one() -> None:
    """On routes that need no key."""
    assert parse(encode(STRANGER)) == STRANGER


def test_only_who_may_do_everything_speaks_for_others() -> None:
    assert may_delegate(ANYONE)
    assert not may_delegate(STRANGER)
    assert not may_delegate(Principal("ci", Grant(frozenset({Right.RUN}))))
    assert not may_delegate(Principal("det", Grant(ALL_RIGHTS, ("det-*",))))


GOOD = {"name": "ci", "rights": ["run"]}


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        {"name": "ci"},
        {"rights": ["run"]},
        {**GOOD, "name": 7},
        {**GOOD, "name": ""},
        {**GOOD, "name": "x" * 65},
        {**GOOD, "rights": ["fly"]},
        {**GOOD, "rights": 7},
        {**GOOD, "plugins": "A B"},
        {**GOOD, "priority": "highest"},
        {**GOOD, "weight": 0},
        {**GOOD, "weight": 101},
        {**GOOD, "weight": True},
        {**GOOD, "concurrency": 0},
        {**GOOD, "rate": "many"},
        {**GOOD, "rate": None},
    ],
)
def test_what_names_no_caller_is_none(fields: object) -> None:
    """It is refused, never taken for an operator."""
    assert parse(json.dumps(fields).encode()) is None


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 4000, b"x" * 9000, b"\xff"])
def test_what_is_no_json_is_none(text: bytes) -> None:
    assert parse(text) is None
