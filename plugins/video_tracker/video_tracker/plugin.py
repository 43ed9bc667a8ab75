"""The plugin class: its tools, and the check of its installation."""

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from plugin_runtime import InvalidInput, Progress, model_path, tool

from video_tracker.annotation import Painter
from video_tracker.batches import BATCH
from video_tracker.detection import Box, Detector, box_of, label_of
from video_tracker.encoding import MEDIA_TYPE, Mp4Stream
from video_tracker.media import Video, open_video, read_picture
from video_tracker.options import check_labels, check_range
from video_tracker.tracking import BATCH_FRAMES, Track, TrackedFrame, TrackingOptions, track_frames

PROGRESS_EVERY = BATCH_FRAMES  # frames
PART_BYTES = 512 * 1024
ENVELOPE_BYTES = 64 * 1024  # reserved for everything but the video in a result


class FoundObject(Box):
    """`score` from 0 to 1."""

    label: str
    score: float


class Picture(TypedDict):
    """`width` and `height` of the upright picture in pixels; objects best first."""

    width: int
    height: int
    objects: list[FoundObject]


class FrameTracks(TypedDict):
    """`frame` counts from 0, `time_seconds` from the first frame; tracks by id."""

    frame: int
    time_seconds: float
    tracks: list[Track]


class VideoPart(TypedDict):
    """A piece of a file: the decoded `data` (base64) of all pieces, concatenated in order, is the file."""

    part: int
    media_type: str
    data: str


TORCHSCRIPT = (".pt", ".torchscript")


def load_detector() -> Detector:
    """The operator's model on the GPU, by the library that its suffix names: only that one needs to be installed."""
    model = model_path("detector")
    if model.suffix.lower() in TORCHSCRIPT:
        from video_tracker import torch_detector  # noqa: PLC0415 - torch takes the place of onnxruntime

        return torch_detector.open_on_cuda(model)
    from video_tracker import cuda_session, onnx_detector  # noqa: PLC0415 - not installed beside torch

    return onnx_detector.OnnxDetector(cuda_session.open_on_cuda(model))


class VideoTracker:
    """Detects objects in pictures and tracks them through videos."""

    def __init__(self, load: Callable[[], Detector] = load_detector) -> None:
        self._load = load
        self._detector: Detector | None = None

    def validate(self) -> None:
        """Load the model on the GPU and run a batch of black frames: missing libraries or memory show now."""
        # The runtime has checked the GPU itself: the manifest has `requires_gpu`.
        self._detector = self._load()
        black = np.zeros((480, 640, 3), np.uint8)
        if len(self._detector.detect([black] * BATCH)) != BATCH:
            raise RuntimeError("the model does not answer for every frame of a batch; export it again")

    @tool
    def detect_objects(self, image: bytes, min_score: float = 0.5) -> Picture:
        """Detect the objects in a picture, each with its label, score and box in pixels.

        Scores range from 0 to 1; objects below `min_score` are left out.
        """
        check_range("min_score", min_score, 0.1, 1)
        picture = read_picture(image)
        detector = self._ready()
        (found,) = detector.detect([picture])
        found = found.only(found.scores >= min_score)
        objects: list[FoundObject] = [
            {"label": label_of(detector.labels, int(number)), "score": round(float(score), 3), **box_of(corners)}
            for number, score, corners in zip(found.classes, found.scores, found.corners, strict=True)
        ]
        return {"width": picture.shape[1], "height": picture.shape[0], "objects": objects}

    @tool
    def track_objects(
        self,
        video: Path,
        min_score: float = 0.5,
        labels: list[str] | None = None,
        lost_seconds: float = 1.0,
        every: int = 1,
    ) -> Iterator[Progress | FrameTracks]:
        """Track the objects of a video, frame by frame: each has the same id while it is tracked.

        An object appears from the second frame in which its score is at least `min_score`, and is then tracked through
        weaker detections. An object that is out of sight for up to `lost_seconds` has the same id afterwards. With
        `labels`, only objects of these classes are tracked. Only every `every`-th frame is analysed.
        """
        check_range("every", every, 1, 1000)
        options = self._options(min_score, labels, lost_seconds)._replace(every=every)
        with open_video(video) as source:
            for number, step in enumerate(track_frames(source, self._ready(), options)):
                yield from _progress(number, step, source)
                yield {
                    "frame": step.frame.number,
                    "time_seconds": round(step.frame.time, 3),
                    "tracks": step.tracks,
                }

    @tool
    def annotate(
        self,
        video: Path,
        min_score: float = 0.5,
        labels: list[str] | None = None,
        lost_seconds: float = 1.0,
        max_width: int = 1280,
    ) -> Iterator[Progress | VideoPart]:
        """Draw boxes, labels, ids and paths of the objects into a video: an MP4 (H.264, no sound), streamed in pieces.

        Each item has a piece of the file in base64; decoded and concatenated in order they are the video. A video wider
        than `max_width` pixels is scaled down. The other options are those of `track_objects`.
        """
        check_range("max_width", max_width, 64, 4096)
        options = self._options(min_score, labels, lost_seconds)
        with open_video(video) as source:
            painter = Painter(max_width, source.frames_per_second)
            pieces = _PieceBuffer()
            encoder: Mp4Stream | None = None
            try:
                for number, step in enumerate(track_frames(source, self._ready(), options)):
                    yield from _progress(number, step, source)
                    picture = painter.paint(step.frame.picture, step.tracks)
                    if encoder is None:
                        encoder = Mp4Stream(picture.shape[1], picture.shape[0], source.frames_per_second)
                    yield from pieces.add(encoder.add(picture, step.frame.time))
                if encoder is not None:
                    yield from pieces.add(encoder.finish(), last=True)
            finally:
                if encoder is not None:
                    encoder.abandon()

    def _ready(self) -> Detector:
        if self._detector is None:
            raise RuntimeError("validate() has not been called")
        return self._detector

    def _options(self, min_score: float, labels: list[str] | None, lost_seconds: float) -> TrackingOptions:
        """Raises `InvalidInput`."""
        check_range("min_score", min_score, 0.1, 1)
        check_range("lost_seconds", lost_seconds, 0, 60)
        check_labels(labels, self._ready().labels)
        return TrackingOptions(min_score, labels, lost_seconds)


def _progress(number: int, step: TrackedFrame, source: Video) -> Iterator[Progress]:
    if source.frame_count and number % PROGRESS_EVERY == 0:
        shown = step.frame.number + 1
        yield Progress(shown / source.frame_count, f"frame {shown} of {source.frame_count}")


class _PieceBuffer:
    """Collects bytes into pieces. All must fit into one result: not every caller reads a stream."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._number = 0
        self._encoded = 0
        self._allowed = int(os.environ.get("PLUGIN_MAX_RESULT") or 16 * 1024 * 1024) - ENVELOPE_BYTES

    def add(self, data: bytes, *, last: bool = False) -> Iterator[VideoPart]:
        """Raises `InvalidInput` if the video becomes too large."""
        self._pending += data
        if len(self._pending) < PART_BYTES and not (last and self._pending):
            return
        text = base64.b64encode(self._pending).decode()
        self._pending.clear()
        self._encoded += len(text)
        if self._encoded > self._allowed:
            raise InvalidInput(
                f"The annotated video is over {self._allowed // 4 * 3:,} bytes at this point;"
                " lower max_width, or send a shorter video."
            )
        yield {"part": self._number, "media_type": MEDIA_TYPE, "data": text}
        self._number += 1
