"""Gives detected objects lasting ids: ByteTrack, by the library `trackers`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from video_tracker.detection import Box, Detections, Detector, box_of, label_of
from video_tracker.media import TimedFrame, Video

BATCH_FRAMES = 8
"""Frames decoded, detected and tracked together; callers see them once all are done."""
MIN_OVERLAP = 0.2
"""Overlap of a box and its object's expected box (intersection over union); the ByteTrack paper's value."""
POSITION = "position"  # index among the frame's detections: the tracker returns them in another order
BUFFER_RATE = 30.0  # ByteTrackTracker's buffer is in frames of a thirtieth of a second


class Track(Box):
    """An object in one frame. Its `id` is the same while it is tracked; ids count from 1 in each video."""

    id: int
    label: str
    score: float


class TrackedFrame(NamedTuple):
    """A frame and the tracks in it, by id."""

    frame: TimedFrame
    tracks: list[Track]


class TrackingOptions(NamedTuple):
    """`min_score` starts a track; `labels`: None for all; `lost_seconds`: how long an unseen object retains its id."""

    min_score: float
    labels: Sequence[str] | None
    lost_seconds: float
    every: int = 1


def track_frames(video: Video, detector: Detector, options: TrackingOptions) -> Iterator[TrackedFrame]:
    """The tracks in every analysed frame, in order. Raises `InvalidInput` as `Video.frames` does."""
    tracker = Tracker(detector.labels, options, video.frames_per_second / options.every)
    for frames in _batches(video.frames(options.every), BATCH_FRAMES):
        found = detector.detect([frame.picture for frame in frames])
        for frame, detections in zip(frames, found, strict=True):
            yield TrackedFrame(frame, tracker.update(detections, frame.time))


class Tracker:
    """Tracks the objects of one video."""

    def __init__(self, labels: Sequence[str], options: TrackingOptions, frames_per_second: float) -> None:
        self._labels = labels
        self._options = options
        self._ids: dict[int, int] = {}
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(options.lost_seconds * BUFFER_RATE),
            frame_rate=frames_per_second,
            track_activation_threshold=options.min_score,
            high_conf_det_threshold=options.min_score,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=MIN_OVERLAP,
        )

    def update(self, detections: Detections, time: float) -> list[Track]:
        """The tracks in the next frame. An object appears from its second frame: a single detection may be noise."""
        selected = self._selected(detections)
        numbered = sv.Detections(
            xyxy=selected.corners,
            confidence=selected.scores,
            class_id=selected.classes,
            data={POSITION: np.arange(len(selected))},
        )
        tracked = self._tracker.update(numbered, timestamp=time)
        numbers = () if tracked.tracker_id is None else tracked.tracker_id
        tracks: list[Track] = [
            {
                "id": self._id(int(number)),
                "label": label_of(self._labels, int(selected.classes[position])),
                "score": round(float(selected.scores[position]), 3),
                **box_of(selected.corners[position]),
            }
            for number, position in zip(numbers, tracked.data.get(POSITION, ()), strict=True)
            if number >= 0
        ]
        return sorted(tracks, key=lambda track: track["id"])

    def _selected(self, detections: Detections) -> Detections:
        if self._options.labels is None:
            return detections
        names = [label_of(self._labels, int(number)) for number in detections.classes]
        return detections.only(np.array([name in self._options.labels for name in names], bool))

    def _id(self, number: int) -> int:
        return self._ids.setdefault(number, len(self._ids) + 1)


def _batches(frames: Iterable[TimedFrame], size: int) -> Iterator[list[TimedFrame]]:
    iterator = iter(frames)
    while batch := list(islice(iterator, size)):
        yield batch
