"""The plugin class: its tools, and the check of its installation."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from plugin_runtime import InvalidInput, Progress, tool

from motion_detector.options import check_range
from motion_detector.regions import Mask, Region, changed_pixels, moving_regions
from motion_detector.uploads import open_video, read_grey_picture

MAX_AREA = 50_000_000
FOREGROUND = 255  # MOG2 marks shadows with 127
PROGRESS_EVERY = 10  # frames


class Comparison(TypedDict):
    """`changed_fraction` is the share of all pixels that differ, noise included; regions largest first."""

    width: int
    height: int
    changed_fraction: float
    regions: list[Region]


class FrameMotion(TypedDict):
    """`frame` counts from 0; regions largest first."""

    frame: int
    time_seconds: float
    regions: list[Region]


class MotionDetector:
    """Finds motion in pictures and videos."""

    def validate(self) -> None:
        """Check that OpenCV can open videos and detects a square that appears."""
        if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
            raise RuntimeError("OpenCV was built without FFmpeg and cannot open videos; install opencv-python-headless")
        before = np.zeros((64, 64), np.uint8)
        after = before.copy()
        after[16:48, 16:48] = 255
        if len(moving_regions(changed_pixels(before, after, threshold=25), min_area=1)) != 1:
            raise RuntimeError("OpenCV does not find a white square on black; its installation is broken")

    @tool
    def compare_frames(self, first: bytes, second: bytes, threshold: int = 25, min_area: int = 500) -> Comparison:
        """Find the regions in which two pictures of one scene differ.

        Both must have the same size. A pixel differs if its brightness (0 to 255) changed by more than `threshold`.
        Regions of fewer than `min_area` pixels are left out.
        """
        check_range("threshold", threshold, 1, 254)
        check_range("min_area", min_area, 1, MAX_AREA)
        before, after = read_grey_picture(first, "first"), read_grey_picture(second, "second")
        if before.shape != after.shape:
            raise InvalidInput(f"The pictures differ in size: first is {_size(before)}, second is {_size(after)}.")
        changed = changed_pixels(before, after, threshold)
        return {
            "width": before.shape[1],
            "height": before.shape[0],
            "changed_fraction": round(float(np.count_nonzero(changed)) / changed.size, 4),
            "regions": moving_regions(changed, min_area),
        }

    @tool
    def detect_motion(
        self, video: Path, min_area: int = 500, history: int = 200, variance_threshold: float = 16.0, every: int = 1
    ) -> Iterator[Progress | FrameMotion]:
        """Find the moving regions of a video, frame by frame.

        The background is learnt from the last `history` frames (MOG2), so the first frame has no motion. A pixel moves
        if its squared distance from the background exceeds `variance_threshold` variances. Regions of fewer than
        `min_area` pixels are left out. Only every `every`-th frame is analysed.
        """
        check_range("min_area", min_area, 1, MAX_AREA)
        check_range("history", history, 2, 10_000)
        check_range("variance_threshold", variance_threshold, 1, 1000)
        check_range("every", every, 1, 1000)
        subtractor = cv2.createBackgroundSubtractorMOG2(history, variance_threshold, detectShadows=True)
        with open_video(video) as source:
            for seen, (index, frame) in enumerate(source.frames(every)):
                moving = subtractor.apply(frame) == FOREGROUND
                if source.frame_count and seen % PROGRESS_EVERY == 0:
                    yield Progress((index + 1) / source.frame_count, f"frame {index + 1} of {source.frame_count}")
                yield {
                    "frame": index,
                    "time_seconds": round(index / source.frames_per_second, 3),
                    "regions": moving_regions(moving, min_area) if seen else [],
                }


def _size(picture: Mask) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
