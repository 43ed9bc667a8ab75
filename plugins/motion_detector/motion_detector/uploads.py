"""From uploads to pictures. What is wrong with an upload is the caller's to mend: `InvalidInput`."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from plugin_runtime import InvalidInput

from motion_detector.regions import Mask

MAX_FRAME_PIXELS = 9_000_000
"""4K (4096 x 2160) fits: decoder and background model take 1.2 GB then, and plugin.yaml allows for 2."""

USUAL_RATE = 25.0
"""Frames per second, for times in a video that does not say how fast it is."""


class Video:
    """An opened video. `frame_count` is what the file says of itself, 0 where it says nothing."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self.width = int(_number(capture, cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(_number(capture, cv2.CAP_PROP_FRAME_HEIGHT))
        self.frame_count = int(_number(capture, cv2.CAP_PROP_FRAME_COUNT))
        self.frames_per_second = _number(capture, cv2.CAP_PROP_FPS) or USUAL_RATE

    def frames(self, every: int) -> Iterator[tuple[int, Mask]]:
        """Each `every`-th frame with its number, until the end or the first that is damaged.

        Raises `InvalidInput` where there is not even one.
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
    """Only FFmpeg is asked, so that a file's name is never taken for a pattern or a device."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise InvalidInput(
                "The upload is no video that can be opened; MP4, AVI, MKV, MOV and WebM are safe choices."
            )
        video = Video(capture)
        if video.width * video.height > MAX_FRAME_PIXELS:
            size = f"{video.width} x {video.height}"
            raise InvalidInput(f"The video has {size} pixels; at most {MAX_FRAME_PIXELS:,} are read.")
        yield video
    finally:
        capture.release()


def read_grey_picture(data: bytes, name: str) -> Mask:
    """`name` is that of the parameter, for the message."""
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
    """What a file says of itself may be negative or no number: 0 then."""
    value = capture.get(prop)
    return value if math.isfinite(value) and value > 0 else 0.0
