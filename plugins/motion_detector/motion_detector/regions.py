"""Changed pixels between two pictures, and the regions that they form. Pure."""

from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]
"""A picture of one channel; of changed pixels: zero where nothing changed."""

MAX_REGIONS = 500
"""Only the largest: with a small `min_area`, noise could make a result of any size."""

NOISE = (5, 5)  # size of the Gaussian that removes the sensor's noise
SPECK = np.ones((3, 3), np.uint8)  # regions that do not hold this square are noise
GAP = np.ones((9, 9), np.uint8)  # regions closer than this are merged


class Point(TypedDict):
    """In pixels, from the upper left corner."""

    x: float
    y: float


class Region(TypedDict):
    """`x`, `y` is the upper left corner of the box around it; `area` counts its own pixels, not those of the box."""

    x: int
    y: int
    width: int
    height: int
    area: int
    centroid: Point


def changed_pixels(before: Mask, after: Mask, threshold: int) -> Mask:
    """Where the brightness of two grey pictures of one size differs by more than `threshold`."""
    difference = cv2.absdiff(cv2.GaussianBlur(before, NOISE, 0), cv2.GaussianBlur(after, NOISE, 0))
    changed: Mask = difference > threshold
    return changed


def moving_regions(changed: Mask, min_area: int) -> list[Region]:
    """The connected regions of at least `min_area` pixels, largest first."""
    mask = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_OPEN, SPECK)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, GAP)
    _, _, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    labels = [label for label in np.argsort(-areas, kind="stable") if label != 0 and areas[label] >= min_area]
    return [_region(stats[label], centroids[label]) for label in labels[:MAX_REGIONS]]


def _region(stats: Mask, centroid: Mask) -> Region:
    return {
        "x": int(stats[cv2.CC_STAT_LEFT]),
        "y": int(stats[cv2.CC_STAT_TOP]),
        "width": int(stats[cv2.CC_STAT_WIDTH]),
        "height": int(stats[cv2.CC_STAT_HEIGHT]),
        "area": int(stats[cv2.CC_STAT_AREA]),
        "centroid": {"x": round(float(centroid[0]), 1), "y": round(float(centroid[1]), 1)},
    }
