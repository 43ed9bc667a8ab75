"""Tesseract, through pytesseract: the only module that knows it.

pytesseract starts a process per picture, so a picture that crashes Tesseract does not crash the worker; tesserocr would
run it inside the worker. Pictures and results pass through files in TMPDIR.
"""

from typing import Any

import pytesseract  # type: ignore[import-untyped]
from PIL import Image

ORIENTATION_DATA = "osd"  # listed among the languages, but not a language


def installed_languages() -> tuple[str, ...]:
    """Raises `pytesseract.TesseractNotFoundError` if the program is missing."""
    return tuple(sorted(name for name in pytesseract.get_languages(config="") if name != ORIENTATION_DATA))


def read_table(picture: Image.Image, language: str) -> dict[str, list[Any]]:
    """Tesseract's table of pages, blocks, paragraphs, lines and words, as columns."""
    table: dict[str, list[Any]] = pytesseract.image_to_data(picture, lang=language, output_type=pytesseract.Output.DICT)
    return table
