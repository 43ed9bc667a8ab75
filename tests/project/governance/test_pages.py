"""The pages: every link resolves, every page can be reached, and files that a page names exist."""

import re
from pathlib import Path

import pytest
from support.pages import FRONT, PROJECT, anchors, links, pages, text_of

ROOTS = (
    "",
    "orchestrator",
    "orchestrator/sandbox",
    "orchestrator/supervisor",
    "plugin-images/runtime",
    "plugin-images/runtime/src",
    "tests",
)
FOR_DEVELOPERS = ("orchestrator/README.md", "tests/README.md", "tests/benchmarks/README.md", "plugin-images/README.md")
"""Pages whose files and folders are those of this project, not those of a reader's plugin or of the state folder."""
_FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|ya?ml|toml|json)|(?:[\w.-]+/)+)`")
_WRITTEN_BY_A_RUN = {"build/bench.json", "build/bench-peers.json"}


@pytest.mark.parametrize("page", FOR_DEVELOPERS)
def test_every_file_and_folder_that_a_page_names_exists(page: str) -> None:
    """From the top, from the page's own folder, or from the folder that the page is about."""
    named = set(_FILE.findall(text_of(page))) - _WRITTEN_BY_A_RUN
    assert named
    roots = [*ROOTS, str(Path(page).parent)]
    missing = [name for name in sorted(named) if not any((PROJECT / root / name).exists() for root in roots)]
    assert missing == []


@pytest.mark.parametrize("page", pages())
def test_every_link_resolves(page: str) -> None:
    """To a file or folder of the project, and to a heading where it names one."""
    broken = [
        f"{path}#{anchor}" if anchor else path
        for path, anchor in links(page)
        if not (PROJECT / path).exists() or (anchor and anchor not in anchors(path))
    ]
    assert broken == []


def test_every_page_can_be_reached_from_the_front() -> None:
    """By links alone; pages of sample files belong to their folders."""
    reached, ahead = set(), [FRONT]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            ahead += [path for path, _ in links(page) if path.endswith(".md") and (PROJECT / path).is_file()]
    assert [page for page in pages() if page not in reached and "samples" not in Path(page).parts] == []


def test_the_front_page_is_a_door() -> None:
    """It has what everybody needs, and leads to the rest."""
    headings = re.findall(r"^## (.+)$", text_of(FRONT), re.MULTILINE)
    assert headings == ["Two commands", "Life of a call", "A plugin in ten minutes", "Where to read on"]
    assert len(text_of(FRONT).splitlines()) < 150


def test_the_glossary_has_the_ten_words() -> None:
    """In orchestrator/README.md, and the front page links to it."""
    words = re.findall(r"^\| (\w+) \|", text_of("orchestrator/README.md").split("## ")[1], re.MULTILINE)
    assert set(words) - {"word"} == {
        "instance",
        "run",
        "verdict",
        "evidence",
        "generation",
        "lease",
        "gateway",
        "candidate",
        "host",
        "front",
    }
    assert ("orchestrator/README.md", "glossary") in set(links(FRONT))
