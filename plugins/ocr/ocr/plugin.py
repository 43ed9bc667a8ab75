"""The plugin class: its tools, and the check of its installation."""

from typing import TypedDict

from PIL import Image
from plugin_runtime import InvalidInput, tool

from ocr import engine
from ocr.pictures import open_picture
from ocr.words import Word, mean_confidence, text_of, words_of

DEFAULT_LANGUAGE = "eng"


class PageText(TypedDict):
    """`confidence` is the mean over all words, 0 to 100; None without words."""

    text: str
    language: str
    confidence: float | None


class PageWords(TypedDict):
    """`width` and `height` of the upright picture in pixels, which the words' boxes refer to."""

    language: str
    width: int
    height: int
    words: list[Word]


class OCR:
    """Reads the text of scanned pages and photographs."""

    def __init__(self) -> None:
        self._languages: tuple[str, ...] = ()

    def validate(self) -> None:
        """Read a blank picture, which shows a missing program, missing language data or a full scratch folder."""
        languages = engine.installed_languages()
        if DEFAULT_LANGUAGE not in languages:
            raise RuntimeError(
                f"Tesseract has no data for {DEFAULT_LANGUAGE!r}; "
                f"add tesseract-ocr-{DEFAULT_LANGUAGE} to system_packages in plugin.yaml"
            )
        engine.read_table(Image.new("L", (64, 64), color=255), DEFAULT_LANGUAGE)
        self._languages = languages

    @tool
    def read_text(self, image: bytes, language: str = DEFAULT_LANGUAGE) -> PageText:
        """Read the text of a picture: lines as on the page, with an empty line between paragraphs.

        Only the first page of a file is read. `language` is a Tesseract language such as "eng", or several joined by
        "+".
        """
        words = self._read(open_picture(image), language)
        return {"text": text_of(words), "language": language, "confidence": mean_confidence(words)}

    @tool
    def read_words(self, image: bytes, language: str = DEFAULT_LANGUAGE, min_confidence: float = 0) -> PageWords:
        """Read the words of a picture, each with its box in pixels and its confidence from 0 to 100.

        Words below `min_confidence` are left out.
        """
        if not 0 <= min_confidence <= 100:
            raise InvalidInput(f"min_confidence is {min_confidence}; it must be from 0 to 100.")
        picture = open_picture(image)
        words = [word for word in self._read(picture, language) if word["confidence"] >= min_confidence]
        return {"language": language, "width": picture.width, "height": picture.height, "words": words}

    def _read(self, picture: Image.Image, language: str) -> list[Word]:
        unknown = [part for part in language.split("+") if part not in self._languages]
        if unknown:
            raise InvalidInput(
                f"Language {unknown[0][:40]!r} is not installed; installed are: {', '.join(self._languages)}."
            )
        return words_of(engine.read_table(picture, language))
