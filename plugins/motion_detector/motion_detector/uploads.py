"""Decodes uploaded pictures and videos. Raises `InvalidInput` for a bad upload, which only the caller can fix."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from plugin_runtime import InvalidInput

from motion_detector.regions import Mask

MAX_FRAME_PIXELS = 9_000_000
"""4K (4096 x 2160) fits: decoder and background model then take 1.2 GB of the 2 GB in plugin.yaml."""

DEFAULT_RATE = 25.0
"""Frames per second of a video that does not state its rate."""


class Video:
    """An opened video. `frame_count` is as stated by the file, 0 if unknown."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self.width = int(_number(capture, cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(_number(capture, cv2.CAP_PROP_FRAME_HEIGHT))
        self.frame_count = int(_number(capture, cv2.CAP_PROP_FRAME_COUNT))
        self.frames_per_second = _number(capture, cv2.CAP_PROP_FPS) or DEFAULT_RATE

    def frames(self, every: int) -> Iterator[tuple[int, Mask]]:
        """Every `every`-th frame with its number, up to the end or the first damaged frame.

        Raises `InvalidInput` if there is none.
        """
        index = 0
        while self._capture.grab():
            if index % every == 0:
                decoded, frame = self._capture.retrieve()
                if not decoded:
                    break
                yield index, frame
            index += 1
        if index == 0:
            raise InvalidInput("The video holds no frame that can be decoded.")


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Raises `InvalidInput`."""
    # FFmpeg alone: other backends of OpenCV read a file name as a pattern or a device.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise InvalidInput("The upload is no video that can be opened; use MP4, AVI, MKV, MOV or WebM.")
        video = Video(capture)
        if video.width * video.height > MAX_FRAME_PIXELS:
            size = f"{video.width} x {video.height}"
            raise InvalidInput(f"The video has {size} pixels; at most {MAX_FRAME_PIXELS:,} are read.")
        yield video
    finally:
        capture.release()


def read_grey_picture(data: bytes, name: str) -> Mask:
    """`name`: the parameter, for the message. Raises `InvalidInput`."""
    if not data:
        raise InvalidInput(f"The picture {name!r} is empty.")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # a picture above OPENCV_IO_MAX_IMAGE_PIXELS, or a header that makes no sense
        picture = None
    if picture is None:
        raise InvalidInput(f"The picture {name!r} cannot be decoded: it is damaged, too large or no picture.")
    return picture


def _number(capture: cv2.VideoCapture, prop: int) -> float:
    value = capture.get(prop)  # as stated by the file: it may be negative or NaN
    return value if math.isfinite(value) and value > 0 else 0.0
