"""Uploads become frames, or an error that says what is wrong with them."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from plugin_runtime import InvalidInput
from squares_model import film
from video_tracker.media import open_video, read_picture

UNTURNED = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
CLOCKWISE = (0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
"""Matrices of an MP4 file's tracks: unrotated, and a quarter turn clockwise."""

CLIP = Path(__file__).parents[1] / "samples" / "cup.mp4"


def grey(value, width=64, height=48):
    return np.full((height, width, 3), value, np.uint8)


def frames_of(path, every=1):
    with open_video(path) as video:
        return list(video.frames(every))


class TestVideos:
    def test_frames_come_in_order_with_number_and_time(self, tmp_path):
        frames = frames_of(film(tmp_path / "clip.mp4", [grey(10 * n) for n in range(10)], rate=20))
        assert [frame.number for frame in frames] == list(range(10))
        assert [frame.time for frame in frames] == pytest.approx([n / 20 for n in range(10)], abs=1e-3)
        assert [int(frame.picture.mean()) for frame in frames] == pytest.approx([10 * n for n in range(10)], abs=3)

    def test_each_frame_has_its_own_time_where_the_rate_varies(self, tmp_path):
        times = [0.0, 0.04, 0.5, 0.54, 2.0]
        frames = frames_of(film(tmp_path / "clip.mp4", [grey(n) for n in range(5)], times=times))
        assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)

    def test_of_every_third_frame_number_and_time_are_those_of_the_video(self, tmp_path):
        frames = frames_of(film(tmp_path / "clip.mp4", [grey(n) for n in range(10)]), every=3)
        assert [frame.number for frame in frames] == [0, 3, 6, 9]
        assert frames[1].time == pytest.approx(0.12, abs=1e-3)

    def test_the_clip_says_how_long_it_is(self):
        with open_video(CLIP) as video:
            assert video.frame_count == 82
            assert video.frames_per_second == pytest.approx(26.777, abs=0.01)

    def test_a_video_that_does_not_count_its_frames_is_measured_by_its_length(self, tmp_path):
        path = film(tmp_path / "clip.webm.mkv", [grey(n) for n in range(50)])
        with open_video(path) as video:
            assert video.frame_count == pytest.approx(50, abs=2)

    def test_a_video_taken_on_its_side_is_upright(self, tmp_path):
        """As phones do it: the frames lie on their side, and the file holds their rotation."""
        picture = grey(0)
        picture[:, :32] = 255  # the left half is white
        content = film(tmp_path / "lying.mp4", [picture] * 3).read_bytes()
        matrix = content.index(struct.pack(">9i", *UNTURNED), content.index(b"tkhd"))
        turned = tmp_path / "turned.mp4"
        turned.write_bytes(content[:matrix] + struct.pack(">9i", *CLOCKWISE) + content[matrix + 36 :])
        frame = frames_of(turned)[0].picture
        assert frame.shape == (64, 48, 3)
        assert frame[:20].mean() > 200 > 50 > frame[-20:].mean()

    @pytest.mark.parametrize(
        "content",
        [b"", b"no video", CLIP.read_bytes()[2000:], b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n"],
        ids=["empty", "text", "without its head", "playlist of other files"],
    )
    def test_what_is_no_video_is_refused(self, tmp_path, content):
        upload = tmp_path / "upload"
        upload.write_bytes(content)
        with pytest.raises(InvalidInput, match="no video that can be opened"):
            frames_of(upload)

    def test_a_video_cut_off_is_read_as_far_as_it_goes(self, tmp_path):
        upload = tmp_path / "upload"
        upload.write_bytes(CLIP.read_bytes()[:30_000])
        assert 1 < len(frames_of(upload)) < 82

    def test_a_video_without_a_frame_is_refused(self, tmp_path):
        upload = tmp_path / "upload"
        head = CLIP.read_bytes()[:3500]
        upload.write_bytes(head)
        with pytest.raises(InvalidInput, match=r"no (frame|video) that can be"):
            frames_of(upload)

    def test_frames_that_are_too_large_are_refused_before_they_are_taken(self, tmp_path, monkeypatch):
        monkeypatch.setattr("video_tracker.media.MAX_FRAME_PIXELS", 64 * 48 - 1)
        with pytest.raises(InvalidInput, match="64 x 48 pixels; at most 3,071"):
            frames_of(film(tmp_path / "clip.mp4", [grey(0)] * 3))


class TestPictures:
    def test_a_picture_has_red_first(self):
        blue_green_red = np.zeros((4, 4, 3), np.uint8)
        blue_green_red[:] = (0, 0, 200)
        assert read_picture(cv2.imencode(".png", blue_green_red)[1].tobytes())[0, 0].tolist() == [200, 0, 0]

    @pytest.mark.parametrize("data", [b"", b"no picture", cv2.imencode(".png", grey(0))[1].tobytes()[:30]])
    def test_what_is_no_picture_is_refused(self, data):
        with pytest.raises(InvalidInput, match="picture"):
            read_picture(data)
