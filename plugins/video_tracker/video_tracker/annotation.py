"""Draws tracks on frames: box, label with id, and the recent path of each object."""

from collections.abc import Sequence

import cv2
import numpy as np
import supervision as sv

from video_tracker.detection import Frame
from video_tracker.tracking import Track

TRACE_SECONDS = 2.0


class Painter:
    """Annotates one video's frames. All get the first one's size: at most `max_width` wide, even sides for H.264."""

    def __init__(self, max_width: int, frames_per_second: float) -> None:
        self._max_width = max_width
        self._size: tuple[int, int] | None = None
        colours = sv.ColorLookup.TRACK
        self._boxes = sv.BoxAnnotator(color_lookup=colours)
        self._names = sv.LabelAnnotator(color_lookup=colours, text_scale=0.4, text_padding=4, smart_position=True)
        self._traces = sv.TraceAnnotator(
            color_lookup=colours,
            position=sv.Position.CENTER,
            trace_length=max(2, round(TRACE_SECONDS * frames_per_second)),
        )

    def paint(self, frame: Frame, tracks: Sequence[Track]) -> Frame:
        """An annotated copy; `frame` is unchanged."""
        height, width = frame.shape[:2]
        size = self._size = self._size or self._scaled(width, height)
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        if not tracks:
            return picture
        corners = [[t["x"], t["y"], t["x"] + t["width"], t["y"] + t["height"]] for t in tracks]
        ratio = np.array([size[0] / width, size[1] / height] * 2)
        detections = sv.Detections(
            xyxy=np.array(corners) * ratio,
            class_id=np.zeros(len(tracks), int),
            tracker_id=np.array([track["id"] for track in tracks]),
        )
        picture = self._traces.annotate(picture, detections)
        picture = self._boxes.annotate(picture, detections)
        return self._names.annotate(picture, detections, [f"{track['label']} {track['id']}" for track in tracks])

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, self._max_width / width)
        return max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)
