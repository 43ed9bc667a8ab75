"""`plugin_runtime.secret`: the value, and nothing beside the folder of secrets."""

from pathlib import Path

import pytest
from plugin_runtime import secret


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("PLUGIN_SECRETS_DIR", str(tmp_path / "secrets"))
    return tmp_path / "secrets"


@pytest.mark.parametrize(
    ("content", "value"),
    [("s3cr3t", "s3cr3t"), ("s3cr3t\n", "s3cr3t"), ("a\r\n", "a"), ("a\r\nb\n", "a\r\nb"), (" a ", " a ")],
)
def test_the_line_end_that_an_editor_leaves_is_no_part_of_it(folder: Path, content: str, value: str) -> None:
    """One; whatever else is there is."""
    (folder / "TOKEN").write_text(content, newline="")
    assert secret("TOKEN") == value


@pytest.mark.parametrize("name", ["OTHER", "", ".", "../outside", "/etc/passwd", "TOKEN\0"])
def test_what_the_manifest_does_not_name_is_not_there(folder: Path, name: str) -> None:
    """With a word on what to do."""
    (folder.parent / "outside").write_text("x")
    with pytest.raises(LookupError, match="secrets"):
        secret(name)
