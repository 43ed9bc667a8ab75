"""From detections to objects with an identity: ByteTrack, as the library `trackers` has it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from video_tracker.detection import Box, Detections, Detector, box_of, label_of
from video_tracker.media import TimedFrame, Video

FRAMES_AT_ONCE = 8
"""Decoded, detected and tracked together; the callers see none of them before all are done."""
SAME_OBJECT = 0.2
"""How much a box and where its object was expected must overlap (intersection over union); the paper's value."""
POSITION = "position"  # among the frame's detections; the tracker gives them back in an order of its own
BUFFER_RATE = 30.0  # ByteTrackTracker counts how long it remembers in frames of a thirtieth of a second


class Track(Box):
    """An object in one frame. `id` stays the same as long as it is followed; ids count from 1 in each video."""

    id: int
    label: str
    score: float


class TrackedFrame(NamedTuple):
    """A frame and what is followed in it, by id."""

    frame: TimedFrame
    tracks: list[Track]


class Following(NamedTuple):
    """What the caller wants: which score begins a track, which labels count (None: all), how long an object that is
    out of sight keeps its id, which frames are looked at.
    """

    min_score: float
    labels: Sequence[str] | None
    lost_seconds: float
    every: int = 1


def follow(video: Video, detector: Detector, wanted: Following) -> Iterator[TrackedFrame]:
    """Every frame that is looked at, in its order. Raises `InvalidInput` as `Video.frames` does."""
    tracker = Tracker(detector.labels, wanted, video.frames_per_second / wanted.every)
    for frames in _in_parts(video.frames(wanted.every), FRAMES_AT_ONCE):
        found = detector.detect([frame.picture for frame in frames])
        for frame, detections in zip(frames, found, strict=True):
            yield TrackedFrame(frame, tracker.update(detections, frame.time))


class Tracker:
    """One video's objects."""

    def __init__(self, labels: Sequence[str], wanted: Following, frames_per_second: float) -> None:
        self._labels = labels
        self._wanted = wanted
        self._ids: dict[int, int] = {}
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(wanted.lost_seconds * BUFFER_RATE),
            frame_rate=frames_per_second,
            track_activation_threshold=wanted.min_score,
            high_conf_det_threshold=wanted.min_score,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=SAME_OBJECT,
        )

    def update(self, detections: Detections, time: float) -> list[Track]:
        """The objects of the next frame. One shows from its second frame on: a single sighting may be noise."""
        wanted = self._wanted_only(detections)
        numbered = sv.Detections(
            xyxy=wanted.corners,
            confidence=wanted.scores,
            class_id=wanted.classes,
            data={POSITION: np.arange(len(wanted))},
        )
        tracked = self._tracker.update(numbered, timestamp=time)
        numbers = () if tracked.tracker_id is None else tracked.tracker_id
        tracks: list[Track] = [
            {
                "id": self._id(int(number)),
                "label": label_of(self._labels, int(wanted.classes[position])),
                "score": round(float(wanted.scores[position]), 3),
                **box_of(wanted.corners[position]),
            }
            for number, position in zip(numbers, tracked.data.get(POSITION, ()), strict=True)
            if number >= 0
        ]
        return sorted(tracks, key=lambda track: track["id"])

    def _wanted_only(self, detections: Detections) -> Detections:
        if self._wanted.labels is None:
            return detections
        names = [label_of(self._labels, int(number)) for number in detections.classes]
        return detections.only(np.array([name in self._wanted.labels for name in names], bool))

    def _id(self, number: int) -> int:
        return self._ids.setdefault(number, len(self._ids) + 1)


def _in_parts(frames: Iterable[TimedFrame], size: int) -> Iterator[list[TimedFrame]]:
    iterator = iter(frames)
    while part := list(islice(iterator, size)):
        yield part
