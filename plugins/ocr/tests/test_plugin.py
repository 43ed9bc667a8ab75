"""The class and its tools with scripted answers of Tesseract, which itself is tested in the container."""

from pathlib import Path

import pytest
from ocr import engine
from ocr.plugin import OCR
from plugin_runtime import InvalidInput

PAGE = (Path(__file__).parents[1] / "samples" / "book-page.png").read_bytes()
TABLE = {
    "text": ["", "Kentish", "Petition"],
    "conf": [-1, 96.0, 55.0],
    "block_num": [1, 1, 1],
    "par_num": [1, 1, 1],
    "line_num": [0, 1, 1],
    "left": [0, 10, 90],
    "top": [0, 10, 10],
    "width": [300, 70, 80],
    "height": [300, 20, 20],
}


@pytest.fixture
def tesseract(monkeypatch):
    """Tesseract with two languages that reads the same two words in every picture; the list of its runs."""
    runs = []

    def read_table(picture, language):
        runs.append((picture.size, language))
        return TABLE

    monkeypatch.setattr(engine, "installed_languages", lambda: ("deu", "eng"))
    monkeypatch.setattr(engine, "read_table", read_table)
    return runs


@pytest.fixture
def reader(tesseract):
    plugin = OCR()
    plugin.validate()
    tesseract.clear()
    return plugin


def test_read_text_says_text_language_and_confidence(reader):
    assert reader.read_text(PAGE) == {"text": "Kentish Petition", "language": "eng", "confidence": 75.5}


def test_read_words_says_the_size_that_the_boxes_refer_to(reader):
    page = reader.read_words(PAGE)
    assert (page["width"], page["height"], len(page["words"])) == (1065, 1879, 2)


def test_words_below_the_wanted_confidence_are_left_out(reader):
    assert [word["text"] for word in reader.read_words(PAGE, min_confidence=60)["words"]] == ["Kentish"]


@pytest.mark.parametrize("confidence", [-1, 100.5, float("nan")])
def test_an_invalid_confidence_is_refused(reader, confidence):
    with pytest.raises(InvalidInput, match="from 0 to 100"):
        reader.read_words(PAGE, min_confidence=confidence)


def test_languages_may_be_joined(reader, tesseract):
    reader.read_text(PAGE, language="eng+deu")
    assert tesseract == [((1065, 1879), "eng+deu")]


@pytest.mark.parametrize("language", ["xyz", "", "eng+", "eng+xyz", "--list-langs", "../eng"])
def test_an_unknown_language_is_refused_with_the_known_ones(reader, tesseract, language):
    with pytest.raises(InvalidInput, match="installed are: deu, eng"):
        reader.read_text(PAGE, language=language)
    assert tesseract == []


def test_validate_reads_a_picture(tesseract):
    OCR().validate()
    assert [language for _, language in tesseract] == ["eng"]


@pytest.mark.usefixtures("tesseract")
def test_validate_says_what_to_install_where_the_language_is_missing(monkeypatch):
    monkeypatch.setattr(engine, "installed_languages", lambda: ("deu",))
    with pytest.raises(RuntimeError, match="add tesseract-ocr-eng to system_packages"):
        OCR().validate()
