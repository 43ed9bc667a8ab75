import enum
from typing import Any

import cv2
import numpy as np
from nudenet import NudeDetector
from plugin_runtime import InvalidInput, tool


class Only(enum.Enum):
    ALL = "all"
    FACES = "faces"


class Faces:
    def validate(self) -> None:
        self.detector = NudeDetector()
        self.detector.detect(np.zeros((320, 320, 3), np.uint8))

    @tool
    def find_parts(self, image: bytes, only: Only = Only.ALL) -> list[dict[str, Any]]:
        """Find parts of people, each with its class, its score and its box (x, y, width, height)."""
        picture = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise InvalidInput("image is no picture that OpenCV can read")
        found = self.detector.detect(picture)
        return [part for part in found if only is Only.ALL or part["class"].startswith("FACE")]
