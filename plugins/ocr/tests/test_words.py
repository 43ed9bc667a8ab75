"""From Tesseract's table to words and text."""

import pytest
from ocr.words import mean_confidence, text_of, words_of

COLUMNS = ("text", "conf", "block_num", "par_num", "line_num", "left", "top", "width", "height")


def table(*rows):
    return {name: [row[index] for row in rows] for index, name in enumerate(COLUMNS)}


PAGE = table(
    ("", -1, 0, 0, 0, 0, 0, 200, 100),  # the page itself
    ("", -1, 1, 1, 1, 10, 10, 90, 12),  # a line
    ("Such", 96.04, 1, 1, 1, 10, 10, 40, 12),
    ("is", 90.0, 1, 1, 1, 55, 10, 12, 12),
    (" ", 95.0, 1, 1, 1, 70, 10, 4, 12),  # what Tesseract makes of a speck
    ("account;", 84.0, 1, 1, 2, 10, 30, 80, 12),
    ("As", 70.0, 1, 2, 1, 10, 60, 20, 12),
    ("xxv", 60.0, 2, 1, 1, 180, 2, 15, 9),
)


def test_only_rows_with_text_are_words():
    assert [word["text"] for word in words_of(PAGE)] == ["Such", "is", "account;", "As", "xxv"]


def test_a_word_has_its_box_its_confidence_and_its_position():
    assert words_of(PAGE)[0] == {
        "text": "Such",
        "x": 10,
        "y": 10,
        "width": 40,
        "height": 12,
        "confidence": 96.0,
        "block": 1,
        "paragraph": 1,
        "line": 1,
    }


def test_lines_and_paragraphs_of_the_text_are_those_of_the_page():
    assert text_of(words_of(PAGE)) == "Such is\naccount;\n\nAs\n\nxxv"


def test_the_confidence_is_the_mean_of_all_words():
    assert mean_confidence(words_of(PAGE)) == pytest.approx(80.0)


def test_an_empty_page_has_no_text_and_no_confidence():
    blank = words_of(table(("", -1, 0, 0, 0, 0, 0, 200, 100)))
    assert (text_of(blank), mean_confidence(blank)) == ("", None)
