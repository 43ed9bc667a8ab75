from dataclasses import dataclass

import cv2
import numpy as np
from plugin_runtime import InvalidInput, tool
from rapidocr_onnxruntime import RapidOCR


@dataclass
class Line:
    text: str
    score: float
    corners: list[list[float]]


class PageOcr:
    def validate(self) -> None:
        self.engine = RapidOCR()
        self.engine(np.full((64, 64, 3), 255, np.uint8))

    @tool
    def read_lines(self, image: bytes, min_score: float = 0.5) -> list[Line]:
        """Read the lines of a page, from top to bottom."""
        picture = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise InvalidInput("image is no picture that OpenCV can read")
        found, _ = self.engine(picture)
        return [Line(text, score, corners) for corners, text, score in found or [] if score >= min_score]
