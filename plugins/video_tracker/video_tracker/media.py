"""Decodes uploaded pictures and videos. Raises `InvalidInput` for a bad upload, which only the caller can fix.

Videos are read with PyAV, which gives each frame its own time: a tracker needs it if the frame rate varies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from plugin_runtime import InvalidInput

from video_tracker.detection import Frame

MAX_FRAME_PIXELS = 9_000_000
"""4K (4096 x 2160) fits: a batch of 8 frames then takes 212 MB."""
DEFAULT_RATE = 25.0
"""Frames per second of a video that does not state its rate."""
CONTAINERS = "mov,mp4,avi,matroska,webm,mpeg,mpegts,flv,ogg,asf,gif"
"""Video containers only: FFmpeg would also read texts as films, and playlists that name other files."""
UNREADABLE = (
    av.error.InvalidDataError,
    av.error.EOFError,
    av.error.DecoderNotFoundError,
    av.error.DemuxerNotFoundError,
    av.error.PatchWelcomeError,
)
NOT_OPENED = "The upload is no video that can be opened; use MP4, AVI, MKV, MOV or WebM."


class TimedFrame(NamedTuple):
    """`number` counts from 0; `time` is in seconds from the first frame and only increases."""

    number: int
    time: float
    picture: Frame


class Video:
    """An opened video. `frame_count` is stated by the file or follows from its duration; 0 if unknown."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container = container
        self._stream = stream
        self.frames_per_second = float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        self.frame_count: int = stream.frames or max(0, round(seconds * self.frames_per_second))

    def frames(self, every: int = 1) -> Iterator[TimedFrame]:
        """Every `every`-th frame, upright, up to the end or the first damaged frame.

        Raises `InvalidInput` if there is none, or for one that is too large.
        """
        number, last = 0, -1.0
        first: float | None = None
        for decoded in self._decoded():
            if decoded.width * decoded.height > MAX_FRAME_PIXELS:
                size = f"{decoded.width} x {decoded.height}"
                raise InvalidInput(f"The video has {size} pixels; at most {MAX_FRAME_PIXELS:,} are read.")
            if number % every == 0:
                stated = decoded.time
                first = stated if first is None else first
                time = number / self.frames_per_second if stated is None or first is None else stated - first
                if time <= last:  # the clock of some files stands still or jumps back
                    time = last + every / self.frames_per_second
                last = time
                yield TimedFrame(number, time, _upright(decoded))
            number += 1
        if number == 0:
            raise InvalidInput("The video holds no frame that can be decoded.")

    def _decoded(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(self._stream)
        except UNREADABLE:
            return


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """The file's first video stream. Raises `InvalidInput`."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(str(path), options=options)
    except UNREADABLE:
        raise InvalidInput(NOT_OPENED) from None
    with container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise InvalidInput(NOT_OPENED)
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 4
        yield Video(container, stream)


def read_picture(data: bytes) -> Frame:
    """The picture, upright by its EXIF data. Raises `InvalidInput`."""
    if not data:
        raise InvalidInput("The picture is empty.")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # a picture above OPENCV_IO_MAX_IMAGE_PIXELS, or a header that makes no sense
        picture = None
    if picture is None:
        raise InvalidInput("The picture cannot be decoded: it is damaged, too large or no picture.")
    return picture.astype(np.uint8, copy=False)


def _upright(decoded: Any) -> Frame:
    # Phones store frames in the sensor's orientation, with a rotation beside them.
    picture: Frame = decoded.to_ndarray(format="rgb24")
    quarters = round(decoded.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture
