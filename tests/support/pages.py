"""The Markdown pages of this project: their links, headings and blocks of code."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
FRONT = "README.md"
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code; `language` is empty where none is named."""

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.strip().splitlines()[0][:60]}"


def pages() -> list[str]:
    """Every page under version control, or that would be with the next commit, from the project's folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.split(b"\0")
    names = sorted({os.fsdecode(name) for name in listed if name})
    return [name for name in names if not name.startswith(".github/") and (PROJECT / name).is_file()]


def text_of(page: str) -> str:
    return (PROJECT / page).read_text()


def links(page: str) -> Iterator[tuple[str, str]]:
    """Path from the project's folder, and anchor, of each link that stays in the project."""
    for target in _LINK.findall(_without_code(text_of(page))):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            resolved = Path(os.path.normpath(Path(page).parent / path)) if path else Path(page)
            yield str(resolved), anchor


def anchors(page: str) -> set[str]:
    """What a link into the page may name after `#`: its headings, as GitHub spells them."""
    headings = _HEADING.findall(_without_code(text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages."""
    return [
        Block(page, found["language"], found["text"])
        for page in pages()
        for found in _BLOCK.finditer(text_of(page))
        if found["language"] in languages
    ]


def inline_code(page: str) -> list[str]:
    """What stands between backticks within sentences and tables; a table's `\\|` is a bar."""
    return [text.replace("\\|", "|") for text in _INLINE.findall(_without_code(text_of(page)))]


def _without_code(text: str) -> str:
    return _BLOCK.sub("", text)
