"""Names of tools that MCP allows, and what is said of others."""

import pytest

from orchestrator.mcp.names import MAX_LENGTH, fits, misfit, parts, tool_name


@pytest.mark.parametrize("name", ["ocr.read_text", "a.b", "motion-detector.detect", "x" * MAX_LENGTH])
def test_it_fits(name: str) -> None:
    assert fits(name)


@pytest.mark.parametrize("name", ["", "x" * (MAX_LENGTH + 1), "a.größe", "a.b c", "a/b", "a.b\n", "a,b"])
def test_it_does_not_fit(name: str) -> None:
    assert not fits(name)


def test_a_name_says_its_plugin_and_its_tool() -> None:
    """A plugin's name has no dot, so the first one parts them."""
    assert parts(tool_name("ocr", "read")) == ("ocr", "read")
    assert parts("ocr.read.more") == ("ocr", "read.more")
    assert parts("ocr") == ("ocr", "")


def test_an_operator_is_told_of_a_misfit() -> None:
    assert misfit("ocr", "read") is None
    assert "'ocr.größe'" in str(misfit("ocr", "größe")) and "Rename" in str(misfit("ocr", "größe"))
    assert "128" in str(misfit("ocr", "x" * 200))
