"""The pages for whoever carries this on name files that are there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROOTS = (
    "",
    "orchestrator",
    "orchestrator/sandbox",
    "orchestrator/supervisor",
    "plugin-images/runtime",
    "plugin-images/runtime/src",
    "tests",
)
PAGES = ("orchestrator/README.md", "tests/README.md")
_FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|ya?ml|toml|json)|(?:[\w.-]+/)+)`")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_folder_that_a_page_names_is_there(page: str) -> None:
    """From the top, or from the folder that the page speaks of."""
    named = set(_FILE.findall((PROJECT / page).read_text()))
    assert named
    missing = [name for name in sorted(named) if not any((PROJECT / root / name).exists() for root in ROOTS)]
    assert missing == []
