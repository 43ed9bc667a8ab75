"""Encodes pictures as an MP4 video that can be streamed while it is encoded."""

from fractions import Fraction
from typing import Any, Final

import av

from video_tracker.detection import Frame

MEDIA_TYPE: Final = "video/mp4"
CLOCK: Final = 90_000  # ticks per second, as in MPEG; fine enough for any frame rate
FRAGMENTS: Final = "frag_keyframe+empty_moov+default_base_moof"
"""Fragmented MP4: each key frame starts a fragment, and the header needs nothing from the end."""


class Mp4Stream:
    """An H.264 video. The results of `add` and `finish`, concatenated in order, are the file."""

    def __init__(self, width: int, height: int, frames_per_second: float) -> None:
        self._sink = _Sink()
        self._container: Any = av.open(self._sink, "w", format="mp4", options={"movflags": FRAGMENTS})
        rate = Fraction(frames_per_second).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 4
        self._stream.codec_context.gop_size = max(1, round(2 * frames_per_second))
        self._stream.codec_context.time_base = Fraction(1, CLOCK)

    def add(self, picture: Frame, time: float) -> bytes:
        """Encode a frame. `time` is in seconds and increases."""
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.time_base = Fraction(1, CLOCK)
        frame.pts = round(time * CLOCK)
        self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        """The rest of the file. Nothing can be added afterwards."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()

    def abandon(self) -> None:
        """Close the encoder and discard what is left in it."""
        self._container.close()


class _Sink:
    """Collects what FFmpeg writes until `take`."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._written)
        self._written.clear()
        return data
