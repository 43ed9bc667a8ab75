"""Words, lines and text from Tesseract's table. Pure."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypedDict

MAX_DECIMALS = 1


class Word(TypedDict):
    """`x`, `y` is the upper left corner; sizes in pixels; `confidence` from 0 to 100.

    `block`, `paragraph` and `line` count from 1, a paragraph within its block, a line within its paragraph.
    """

    text: str
    x: int
    y: int
    width: int
    height: int
    confidence: float
    block: int
    paragraph: int
    line: int


def words_of(table: dict[str, list[Any]]) -> list[Word]:
    """The words of the table in reading order, without rows that have no text (pages, blocks, lines, noise)."""
    return [
        {
            "text": text.strip(),
            "x": table["left"][row],
            "y": table["top"][row],
            "width": table["width"][row],
            "height": table["height"][row],
            "confidence": round(float(table["conf"][row]), MAX_DECIMALS),
            "block": table["block_num"][row],
            "paragraph": table["par_num"][row],
            "line": table["line_num"][row],
        }
        for row, text in enumerate(table["text"])
        if text.strip()
    ]


def text_of(words: Sequence[Word]) -> str:
    """Words joined to lines, lines to paragraphs, with an empty line between paragraphs."""
    paragraphs = groupby(words, key=lambda word: (word["block"], word["paragraph"]))
    return "\n\n".join(_lines(list(paragraph)) for _, paragraph in paragraphs)


def mean_confidence(words: Sequence[Word]) -> float | None:
    """0 to 100; None without words."""
    if not words:
        return None
    return round(sum(word["confidence"] for word in words) / len(words), MAX_DECIMALS)


def _lines(paragraph: list[Word]) -> str:
    lines = groupby(paragraph, key=lambda word: word["line"])
    return "\n".join(" ".join(word["text"] for word in line) for _, line in lines)
