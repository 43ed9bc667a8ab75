"""A secret that is not there, and one that is there and empty, are told apart."""

from pathlib import Path

import pytest

from orchestrator.loader.plugin_secrets import SecretMissingError, SecretSource


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, content: bytes) -> None:
    secrets = SecretSource(tmp_path, {"ORCHESTRATOR_SECRET_READER_KEY": "not looked at, since there is a file"})
    secrets.path("reader", "KEY").parent.mkdir()
    secrets.path("reader", "KEY").write_bytes(content)
    with pytest.raises(SecretMissingError, match="'KEY' is empty: write it to reader/KEY"):
        secrets.read("reader", "KEY")


@pytest.mark.parametrize("environment", [{}, {"ORCHESTRATOR_SECRET_READER_KEY": ""}])
def test_one_that_is_nowhere_is_not_provided(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(SecretMissingError, match="'KEY' is not provided"):
        SecretSource(tmp_path, environment).read("reader", "KEY")


@pytest.mark.parametrize("content", [b"x\n", b" ", b"\xff"])
def test_whatever_else_a_file_holds_is_the_value(tmp_path: Path, content: bytes) -> None:
    secrets = SecretSource(tmp_path, {})
    secrets.path("reader", "KEY").parent.mkdir()
    secrets.path("reader", "KEY").write_bytes(content)
    assert secrets.read("reader", "KEY") == content
