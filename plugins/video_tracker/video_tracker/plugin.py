"""The plugin class: its tools and the check that it can work at all."""

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from plugin_runtime import InvalidInput, Progress, model_path, tool

from video_tracker.annotation import Painter
from video_tracker.cuda_session import open_on_cuda
from video_tracker.detection import Box, Detector, box_of, label_of
from video_tracker.encoding import MEDIA_TYPE, Mp4Stream
from video_tracker.media import Video, open_video, read_picture
from video_tracker.onnx_detector import BATCH, OnnxDetector
from video_tracker.options import check_labels, check_range
from video_tracker.tracking import FRAMES_AT_ONCE, Following, Track, TrackedFrame, follow

PROGRESS_EVERY = FRAMES_AT_ONCE  # frames
PART_BYTES = 512 * 1024
ENVELOPE_BYTES = 64 * 1024  # what stands around the parts of a video in a result


class FoundObject(Box):
    """`score` from 0 to 1."""

    label: str
    score: float


class Picture(TypedDict):
    """`width` and `height` of the picture, upright, in pixels; objects best first."""

    width: int
    height: int
    objects: list[FoundObject]


class FrameTracks(TypedDict):
    """`frame` counts from 0, `time_seconds` from the first frame; tracks by id."""

    frame: int
    time_seconds: float
    tracks: list[Track]


class VideoPart(TypedDict):
    """A piece of a file: decode `data` (base64) of all parts and put them together in order."""

    part: int
    media_type: str
    data: str


def load_detector() -> Detector:
    """The operator's model, on the GPU."""
    return OnnxDetector(open_on_cuda(model_path("detector")))


class VideoTracker:
    """Finds objects in pictures and follows them through videos."""

    def __init__(self, load: Callable[[], Detector] = load_detector) -> None:
        self._load = load
        self._detector: Detector | None = None

    def validate(self) -> None:
        """Bring the model to the GPU and look at a batch of black frames: what is missing shows now, memory included.

        The GPU itself was checked by the runtime, since the manifest requires it.
        """
        self._detector = self._load()
        black = np.zeros((480, 640, 3), np.uint8)
        if len(self._detector.detect([black] * BATCH)) != BATCH:
            raise RuntimeError("the model does not answer for every frame of a batch; export it anew")

    @tool
    def detect_objects(self, image: bytes, min_score: float = 0.5) -> Picture:
        """Find the objects in a picture, each with its label, score and box in pixels.

        Scores go from 0 to 1; objects below `min_score` are left out.
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
        """Follow the objects of a video, frame by frame: each keeps its id while it is followed.

        An object shows from the second frame on in which it is seen with a score of at least `min_score`, and is then
        followed through weaker sightings. One that is out of sight for up to `lost_seconds` keeps its id. With
        `labels`, only objects of these classes are followed. Of `every` frames, one is looked at.
        """
        check_range("every", every, 1, 1000)
        wanted = self._wanted(min_score, labels, lost_seconds)._replace(every=every)
        with open_video(video) as source:
            for number, step in enumerate(follow(source, self._ready(), wanted)):
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
        """Draw boxes, labels, ids and the ways of the objects into a video: an MP4 (H.264, no sound) in parts.

        Each item has a piece of the file as base64; decoded and put together in order they are the video. It is scaled
        down to `max_width` pixels where it is wider. The other options are those of `track_objects`.
        """
        check_range("max_width", max_width, 64, 4096)
        wanted = self._wanted(min_score, labels, lost_seconds)
        with open_video(video) as source:
            painter = Painter(max_width, source.frames_per_second)
            parts = _Parts()
            encoder: Mp4Stream | None = None
            try:
                for number, step in enumerate(follow(source, self._ready(), wanted)):
                    yield from _progress(number, step, source)
                    picture = painter.paint(step.frame.picture, step.tracks)
                    if encoder is None:
                        encoder = Mp4Stream(picture.shape[1], picture.shape[0], source.frames_per_second)
                    yield from parts.add(encoder.add(picture, step.frame.time))
                if encoder is not None:
                    yield from parts.add(encoder.finish(), last=True)
            finally:
                if encoder is not None:
                    encoder.abandon()

    def _ready(self) -> Detector:
        if self._detector is None:
            raise RuntimeError("validate() has not been called")
        return self._detector

    def _wanted(self, min_score: float, labels: list[str] | None, lost_seconds: float) -> Following:
        """Raises `InvalidInput`."""
        check_range("min_score", min_score, 0.1, 1)
        check_range("lost_seconds", lost_seconds, 0, 60)
        check_labels(labels, self._ready().labels)
        return Following(min_score, labels, lost_seconds)


def _progress(number: int, step: TrackedFrame, source: Video) -> Iterator[Progress]:
    if source.frame_count and number % PROGRESS_EVERY == 0:
        shown = step.frame.number + 1
        yield Progress(shown / source.frame_count, f"frame {shown} of {source.frame_count}")


class _Parts:
    """Gathers bytes into parts; all of them must fit into one result, since not every caller takes a stream."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._number = 0
        self._encoded = 0
        self._allowed = int(os.environ.get("PLUGIN_MAX_RESULT") or 16 * 1024 * 1024) - ENVELOPE_BYTES

    def add(self, data: bytes, *, last: bool = False) -> Iterator[VideoPart]:
        """Raises `InvalidInput` where it becomes too much."""
        self._pending += data
        if len(self._pending) < PART_BYTES and not (last and self._pending):
            return
        text = base64.b64encode(self._pending).decode()
        self._pending.clear()
        self._encoded += len(text)
        if self._encoded > self._allowed:
            raise InvalidInput(
                f"The annotated video is over {self._allowed // 4 * 3:,} bytes at this point;"
                " lower max_width, or send it in shorter pieces."
            )
        yield {"part": self._number, "media_type": MEDIA_TYPE, "data": text}
        self._number += 1
