"""Regions of pictures whose motion is known to the pixel."""

import numpy as np
import pytest
from motion_detector.regions import MAX_REGIONS, changed_pixels, moving_regions

THRESHOLD = 25
BLUR = 3  # pixels by which smoothing may move an edge


def scene(*squares, brightness=200, size=(240, 320)):
    picture = np.full(size, 50, np.uint8)
    for x, y, width, height in squares:
        picture[y : y + height, x : x + width] = brightness
    return picture


def box(region):
    return [region["x"], region["y"], region["width"], region["height"]]


def test_a_still_scene_has_no_regions():
    assert moving_regions(changed_pixels(scene(), scene(), THRESHOLD), min_area=1) == []


def test_what_appears_is_one_region_with_box_area_and_centroid():
    changed = changed_pixels(scene(), scene((100, 60, 40, 30)), THRESHOLD)
    [region] = moving_regions(changed, min_area=500)
    assert box(region) == pytest.approx([100, 60, 40, 30], abs=2 * BLUR)
    assert region["area"] == pytest.approx(40 * 30, rel=0.2)
    assert (region["centroid"]["x"], region["centroid"]["y"]) == pytest.approx((119.5, 74.5), abs=1)


def test_what_moves_away_leaves_one_region_where_it_was_and_one_where_it_is():
    changed = changed_pixels(scene((20, 20, 40, 30)), scene((200, 150, 40, 30)), THRESHOLD)
    boxes = sorted(box(region) for region in moving_regions(changed, min_area=500))
    assert boxes == [pytest.approx([20, 20, 40, 30], abs=2 * BLUR), pytest.approx([200, 150, 40, 30], abs=2 * BLUR)]


def test_the_largest_region_comes_first():
    changed = changed_pixels(scene(), scene((10, 10, 20, 20), (100, 100, 80, 80), (10, 150, 40, 40)), THRESHOLD)
    areas = [region["area"] for region in moving_regions(changed, min_area=1)]
    assert len(areas) == 3
    assert areas == sorted(areas, reverse=True)


def test_regions_below_the_wanted_area_are_left_out():
    changed = changed_pixels(scene(), scene((10, 10, 20, 20), (100, 100, 80, 80)), THRESHOLD)
    assert len(moving_regions(changed, min_area=1000)) == 1


def test_a_change_of_light_below_the_threshold_is_no_motion():
    changed = changed_pixels(scene(), scene((100, 60, 40, 30), brightness=70), THRESHOLD)
    assert not changed.any()


def test_specks_of_noise_are_no_region():
    changed = np.zeros((100, 100), bool)
    changed[10::20, 10::20] = True
    assert moving_regions(changed, min_area=1) == []


def test_the_number_of_regions_is_bounded():
    changed = np.zeros((600, 600), bool)
    for shift in range(4):
        changed[shift::20, :] = True
    changed[:, [column for column in range(600) if column % 20 > 3]] = False
    assert np.count_nonzero(changed) == 30 * 30 * 16
    assert len(moving_regions(changed, min_area=1)) == MAX_REGIONS


def test_a_region_is_made_of_plain_numbers():
    [region] = moving_regions(changed_pixels(scene(), scene((100, 60, 40, 30)), THRESHOLD), min_area=1)
    assert {type(value) for value in box(region)} == {int}
    assert {type(value) for value in region["centroid"].values()} == {float}
