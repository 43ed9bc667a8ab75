"""The tools, on the real clip and on videos made here."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from motion_detector.plugin import MotionDetector
from plugin_runtime import InvalidInput, Progress

SAMPLES = Path(__file__).parents[1] / "samples"
CLIP = SAMPLES / "cup.mp4"
FIRST, SECOND = (SAMPLES / name for name in ("cup-first.png", "cup-second.png"))
STILL_UNTIL = 20  # the hand in the clip holds still up to this frame


@pytest.fixture(scope="module")
def detector():
    plugin = MotionDetector()
    plugin.validate()
    return plugin


def png(picture):
    return cv2.imencode(".png", picture)[1].tobytes()


def frames_of(events):
    return [event for event in events if not isinstance(event, Progress)]


@pytest.fixture
def film(tmp_path):
    """A white square of 40 x 40 crosses a grey scene from left to right from frame 30 on, 4 pixels per frame."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (320, 240))
    for number in range(60):
        frame = np.full((240, 320, 3), 60, np.uint8)
        if number >= 30:
            x = 4 * (number - 30)
            frame[100:140, x : x + 40] = 255
        writer.write(frame)
    writer.release()
    return path


class TestCompareFrames:
    def test_two_frames_of_the_clip_differ_where_the_hand_is(self, detector):
        result = detector.compare_frames(FIRST.read_bytes(), SECOND.read_bytes())
        assert (result["width"], result["height"]) == (320, 240)
        assert 0.2 < result["changed_fraction"] < 0.4
        assert result["regions"][0]["area"] > 10_000

    def test_a_frame_does_not_differ_from_itself(self, detector):
        result = detector.compare_frames(FIRST.read_bytes(), FIRST.read_bytes(), min_area=1)
        assert (result["changed_fraction"], result["regions"]) == (0.0, [])

    def test_pictures_of_two_sizes_are_refused_with_both_sizes(self, detector):
        small = png(np.zeros((20, 30), np.uint8))
        with pytest.raises(InvalidInput, match="first is 30 x 20, second is 320 x 240"):
            detector.compare_frames(small, FIRST.read_bytes())

    @pytest.mark.parametrize("upload", [b"", b"no picture", FIRST.read_bytes()[:40]], ids=["empty", "text", "cut"])
    def test_what_is_no_picture_is_refused_by_its_parameter(self, detector, upload):
        with pytest.raises(InvalidInput, match="'second'"):
            detector.compare_frames(FIRST.read_bytes(), upload)

    @pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 255}, {"min_area": 0}, {"min_area": -5}])
    def test_options_that_make_no_sense_are_refused(self, detector, options):
        with pytest.raises(InvalidInput, match=f"{next(iter(options))} is .* must be from 1 to"):
            detector.compare_frames(FIRST.read_bytes(), SECOND.read_bytes(), **options)


class TestDetectMotion:
    def test_the_clip_is_still_first_and_moves_then(self, detector):
        frames = frames_of(detector.detect_motion(CLIP))
        assert [frame["frame"] for frame in frames] == list(range(82))
        assert not any(frame["regions"] for frame in frames[:STILL_UNTIL])
        assert all(frame["regions"] for frame in frames[STILL_UNTIL + 5 :])

    def test_times_follow_the_frame_rate(self, detector):
        frames = frames_of(detector.detect_motion(CLIP))
        assert frames[45]["time_seconds"] == pytest.approx(45 / 26.777, abs=0.001)

    def test_progress_counts_up_to_the_number_of_frames(self, detector):
        progress = [event for event in detector.detect_motion(CLIP) if isinstance(event, Progress)]
        fractions = [event.fraction for event in progress]
        assert len(fractions) == 9
        assert fractions == sorted(fractions)
        assert progress[-1].message == "frame 81 of 82"

    def test_a_square_that_moves_is_found_where_it_is(self, detector, film):
        frames = frames_of(detector.detect_motion(film))
        assert not any(frame["regions"] for frame in frames[:30])
        for frame in frames[32:]:
            region = frame["regions"][0]
            right = 4 * (frame["frame"] - 30) + 40
            assert region["x"] + region["width"] == pytest.approx(right, abs=6)
            assert [region["y"], region["height"]] == pytest.approx([100, 40], abs=6)

    def test_of_every_tenth_frame_the_number_is_that_of_the_video(self, detector):
        frames = frames_of(detector.detect_motion(CLIP, every=10))
        assert [frame["frame"] for frame in frames] == list(range(0, 82, 10))

    def test_a_caller_that_has_seen_enough_ends_it(self, detector):
        events = detector.detect_motion(CLIP)
        next(events)
        events.close()

    @pytest.mark.parametrize(
        "content", [b"", b"no video", CLIP.read_bytes()[2000:]], ids=["empty", "text", "without its head"]
    )
    def test_what_is_no_video_is_refused(self, detector, tmp_path, content):
        upload = tmp_path / "upload"
        upload.write_bytes(content)
        with pytest.raises(InvalidInput, match="no video that can be opened"):
            next(detector.detect_motion(upload))

    def test_a_video_cut_off_is_read_as_far_as_it_goes(self, detector, tmp_path):
        upload = tmp_path / "upload"
        upload.write_bytes(CLIP.read_bytes()[:30_000])
        assert 1 < len(frames_of(detector.detect_motion(upload))) < 82

    @pytest.mark.parametrize(
        "options",
        [{"min_area": 0}, {"history": 1}, {"variance_threshold": float("nan")}, {"every": 0}, {"every": 10**9}],
        ids=str,
    )
    def test_options_that_make_no_sense_are_refused(self, detector, options):
        with pytest.raises(InvalidInput, match=f"{next(iter(options))} is .* must be from"):
            next(detector.detect_motion(CLIP, **options))
