from typing import TypedDict

from lingua import Language, LanguageDetectorBuilder
from plugin_runtime import tool

KNOWN = [Language.ENGLISH, Language.GERMAN, Language.FRENCH, Language.SPANISH, Language.RUSSIAN]


class Guess(TypedDict):
    language: str
    confidence: float


class LanguageOf:
    def validate(self) -> None:
        self.detector = LanguageDetectorBuilder.from_languages(*KNOWN).with_preloaded_language_models().build()

    @tool
    def guess(self, text: str, top: int = 3) -> list[Guess]:
        """Guess the language of a text, the most likely first."""
        values = self.detector.compute_language_confidence_values(text)
        return [Guess(language=value.language.iso_code_639_1.name, confidence=value.value) for value in values[:top]]

    @tool
    def languages(self, texts: list[str]) -> dict[str, str | None]:
        """The language of each text, null where it has none."""
        found = {text: self.detector.detect_language_of(text) for text in texts}
        return {text: language and language.iso_code_639_1.name for text, language in found.items()}
