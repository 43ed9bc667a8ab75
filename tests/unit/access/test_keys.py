"""API keys: stored so that they cannot be recovered, reread while the orchestrator runs, never lost by accident."""

import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.access.gate import MAX_WRONG_KEYS, WINDOW_SECONDS, FailedKeys
from orchestrator.access.key_store import KeyFileError, KeyStore
from orchestrator.access.keys import KeyRing, Role, issue, stored_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_found_among_others_and_nothing_else_is() -> None:
    """Only by its whole text, exactly."""
    issued = [issue(f"key-{number}", Role.VIEWER, NOW) for number in range(5)]
    ring = KeyRing([key for _, key in issued])
    for text, key in issued:
        assert ring.find(text) == key
        for wrong in (text[:-1], text + "x", text.swapcase(), f" {text}", key.sha256, key.hint, ""):
            assert ring.find(wrong) is None


def test_a_key_has_256_random_bits() -> None:
    """As text that a secret scanner knows."""
    texts = {issue("a", Role.VIEWER, NOW)[0] for _ in range(100)}
    assert len(texts) == 100
    assert all(text.startswith("po_") and len(text) == 3 + 43 for text in texts)


def test_neither_the_file_nor_a_printed_key_reveals_it(tmp_path: Path) -> None:
    """Only a hash and the last characters."""
    store = KeyStore(tmp_path / "state")
    text = store.add("ci", Role.OPERATOR)
    content = (tmp_path / "state" / "keys.json").read_text()
    assert text not in content and text[3:-4] not in content
    (key,) = store.listed()
    assert text not in repr(key) and key.sha256 not in repr(key)
    assert key.hint == text[-4:]


def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    """From its creation on, and after every change."""
    store = KeyStore(tmp_path / "state")
    for name in ("a", "b"):
        store.add(name, Role.VIEWER)
        assert (tmp_path / "state" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_change_counts_within_a_second_and_the_file_is_read_no_oftener(tmp_path: Path) -> None:
    """Otherwise every request would check it."""
    clock = Clock()
    running, command = KeyStore(tmp_path, clock=clock), KeyStore(tmp_path)
    assert not running.ring()
    text = command.add("ci", Role.OPERATOR)
    assert not running.ring(), "checked again within the same second"
    clock.now += 1
    assert running.ring().find(text)
    command.remove("ci")
    assert running.ring().find(text)
    clock.now += 1
    assert not running.ring()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": [{"name": "a"}]}', b"\xff", b"x" * 2_000_000])
def test_a_broken_file_removes_no_protection(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The keys read before stay valid, which is logged once; a start is refused."""
    clock = Clock()
    running = KeyStore(tmp_path, clock=clock)
    text = KeyStore(tmp_path).add("ci", Role.VIEWER)
    assert running.ring().find(text)
    (tmp_path / "keys.json").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            clock.now += 1
            assert running.ring().find(text)
    assert len(caplog.records) == 1 and "keys.json" in caplog.text
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        KeyStore(tmp_path).load()


def test_concurrent_commands_lose_no_key(tmp_path: Path) -> None:
    """Each reads what the other wrote."""

    def add(number: int) -> None:
        KeyStore(tmp_path).add(f"key-{number}", Role.VIEWER)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in KeyStore(tmp_path).listed()} == {f"key-{n}" for n in range(12)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.lock"]


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", "-a", "a\n", "ä", "a" * 65])
def test_an_invalid_name_is_refused(tmp_path: Path, name: str) -> None:
    """Names are shown in tables and logs."""
    with pytest.raises(ValueError, match="expected a name"):
        KeyStore(tmp_path).add(name, Role.VIEWER)
    assert not (tmp_path / "keys.json").exists()


def test_a_name_is_used_once(tmp_path: Path) -> None:
    """Otherwise `remove` would be ambiguous."""
    KeyStore(tmp_path).add("ci", Role.VIEWER)
    with pytest.raises(ValueError, match="already"):
        KeyStore(tmp_path).add("ci", Role.OPERATOR)


@pytest.mark.parametrize("text", ["", "secret", "x" * 31, "x" * 30 + " x", "ä" * 40])
def test_an_operators_own_key_that_could_be_guessed_is_refused(text: str) -> None:
    """A key that is hashed fast must be long."""
    with pytest.raises(ValueError, match="at least 32"):
        stored_key(text, "mine", Role.VIEWER, NOW)


def test_expiry_is_stored(tmp_path: Path) -> None:
    """And holds to the second."""
    KeyStore(tmp_path).add("ci", Role.VIEWER, NOW + timedelta(days=1))
    (key,) = KeyStore(tmp_path).listed()
    assert not key.expired(NOW + timedelta(hours=23))
    assert key.expired(NOW + timedelta(days=1))
    assert json.loads((tmp_path / "keys.json").read_text())["keys"][0]["expires"].startswith("2026-01-02")


def test_wrong_keys_are_counted_by_address_and_forgotten_after_a_minute() -> None:
    """An address with too many gets the seconds to wait; another address is not affected."""
    clock = Clock()
    failures = FailedKeys(clock)
    assert [failures.count("192.0.2.1") for _ in range(MAX_WRONG_KEYS)] == [None] * MAX_WRONG_KEYS
    clock.now += 20
    assert failures.count("192.0.2.1") == WINDOW_SECONDS - 20
    assert failures.count("192.0.2.2") is None
    clock.now += WINDOW_SECONDS - 20 + 1
    assert failures.count("192.0.2.1") is None


def test_a_whole_ipv6_network_counts_as_one_caller() -> None:
    """One caller can use all of its 2^64 addresses."""
    failures = FailedKeys(Clock())
    answers = [failures.count(f"2001:db8::{number:x}") for number in range(MAX_WRONG_KEYS + 1)]
    assert answers[-1] is not None
    assert failures.count("2001:db8:0:1::1") is None


def test_the_count_of_wrong_keys_does_not_grow_with_addresses() -> None:
    """A caller with many addresses cannot use up memory."""
    failures = FailedKeys(Clock())
    for number in range(20_000):
        failures.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures._windows) <= 4096
