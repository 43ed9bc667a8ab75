"""Identities: generated clips with known motion, through decoder, model and tracker."""

import math

import numpy as np
import pytest
from squares_model import COLOURS, Square, draw, film, on_cpu, write_model
from trackers.eval import box_iou, compute_clear_metrics, compute_identity_metrics
from video_tracker.media import open_video
from video_tracker.onnx_detector import OnnxDetector
from video_tracker.tracking import TrackingOptions, track_frames

pytestmark = pytest.mark.slow

SIZE, SIDE, RATE = 320, 32, 25
RED, GREEN, BLUE = COLOURS[:3]
VISIBLE = 0.25  # share of a square below which it need not be tracked


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return OnnxDetector(on_cpu(write_model(tmp_path_factory.mktemp("model") / "squares.onnx", side=SIDE / SIZE)))


@pytest.fixture
def tracks_of(detector, tmp_path):
    """The tracks of each frame of a clip with these squares."""

    def track(squares, times=None, **wanted):
        frames = [draw(squares, number, SIZE, SIDE) for number in range(len(squares[0].positions))]
        clip = film(tmp_path / "clip.mp4", frames, rate=RATE, times=times)
        options = {"min_score": 0.5, "labels": None, "lost_seconds": 1.0, **wanted}
        with open_video(clip) as video:
            return [step.tracks for step in track_frames(video, detector, TrackingOptions(**options))]

    return track


def line(start, step, frames, hidden=()):
    """Straight and even motion; None in the frames `hidden`."""
    return [
        None if frame in hidden else (start[0] + step[0] * frame, start[1] + step[1] * frame) for frame in range(frames)
    ]


def ids_at(tracks, position):
    """Ids of the tracks whose box is around `position`."""
    return [
        track["id"]
        for track in tracks
        if abs(track["x"] + track["width"] / 2 - position[0]) < 10
        and abs(track["y"] + track["height"] / 2 - position[1]) < 10
    ]


def ids_of(square, clip):
    """Every id that the square got, in order, where its position is unambiguous."""
    found = [
        ids_at(tracks, position)
        for tracks, position in zip(clip, square.positions, strict=True)
        if position is not None
    ]
    return list(dict.fromkeys(ids[0] for ids in found if len(ids) == 1))


class TestIdentity:
    def test_two_that_cross_keep_their_ids(self, tracks_of):
        right = Square(RED, line((30, 150), (4, 0), 65))
        left = Square(GREEN, line((290, 162), (-4, 0), 65))
        clip = tracks_of([right, left])
        assert [track["id"] for track in clip[-1]] == [1, 2]
        assert len(ids_of(right, clip)) == len(ids_of(left, clip)) == 1
        assert ids_of(right, clip) != ids_of(left, clip)

    def test_one_that_passes_behind_another_keeps_its_id(self, tracks_of):
        """Six tenths of it are hidden: the rest is a weak detection, which alone would start no track."""
        behind = Square(RED, line((30, 160), (4, 0), 65))
        before = Square(BLUE, line((160, 147), (0, 0), 65))
        clip = tracks_of([behind, before])
        assert min(track["score"] for tracks in clip for track in tracks) < 0.5
        assert len(ids_of(behind, clip)) == 1
        assert len(ids_of(before, clip)) == 1

    def test_one_that_is_out_of_sight_for_a_moment_comes_back_as_itself(self, tracks_of):
        square = Square(RED, line((30, 100), (3, 1), 70, hidden=range(30, 45)))
        clip = tracks_of([square])
        assert all(not tracks for tracks in clip[30:45])
        assert ids_of(square, clip) == [1]

    def test_one_that_stays_away_for_too_long_comes_back_as_another(self, tracks_of):
        square = Square(RED, line((30, 100), (3, 1), 70, hidden=range(30, 45)))
        assert ids_of(square, tracks_of([square], lost_seconds=0.2)) == [1, 2]

    def test_one_that_leaves_has_no_track_and_nobody_gets_its_id(self, tracks_of):
        leaving = Square(RED, line((250, 60), (6, 0), 60))
        staying = Square(GREEN, line((60, 200), (1, 0), 60))
        coming = Square(BLUE, [None] * 40 + line((20, 60), (5, 0), 20))
        clip = tracks_of([leaving, staying, coming])
        assert [track["id"] for track in clip[10]] == [1, 2]
        assert [track["id"] for track in clip[35]] == ids_of(staying, clip)
        assert ids_of(coming, clip) == [3]

    def test_an_object_shows_from_its_second_frame_on(self, tracks_of):
        square = Square(RED, [None] * 5 + line((100, 100), (2, 0), 10))
        assert [len(tracks) for tracks in tracks_of([square])] == [0] * 6 + [1] * 9

    def test_times_count_and_not_frames(self, tracks_of):
        """Where the frame rate varies: the gap of 15 frames is 0.3 s in one clip and 1.5 s in the other."""
        square = Square(RED, line((100, 100), (0, 0), 60, hidden=range(20, 35)))
        for pause, ids in ((0.02, [1]), (0.1, [1, 2])):
            times = np.cumsum([0.0] + [pause if 20 <= frame < 35 else 0.04 for frame in range(1, 60)])
            assert ids_of(square, tracks_of([square], times=times.tolist(), lost_seconds=0.8)) == ids

    def test_of_every_third_frame_the_ids_are_the_same(self, tracks_of):
        right = Square(RED, line((30, 150), (3, 0), 80))
        left = Square(GREEN, line((290, 165), (-3, 0), 80))
        clip = tracks_of([right, left], every=3)
        assert len(clip) == 27
        assert [track["id"] for track in clip[-1]] == [1, 2]

    def test_each_video_begins_with_id_one(self, tracks_of):
        square = Square(RED, line((100, 100), (1, 0), 6))
        assert ids_of(square, tracks_of([square])) == ids_of(square, tracks_of([square])) == [1]

    def test_only_the_wanted_labels_are_followed(self, tracks_of):
        square = Square(RED, line((100, 100), (1, 0), 6))
        assert tracks_of([square], labels=[]) == [[]] * 6
        assert tracks_of([square], labels=["square"])[-1][0]["label"] == "square"


def test_quality_on_six_objects_that_cross_enter_and_leave(tracks_of, record_property, capsys):
    """CLEAR MOT and identity metrics as TrackEval has them, against what was drawn: 12 s, 300 frames."""
    squares = [Square(colour, wandering(number)) for number, colour in enumerate(COLOURS)]
    clip = tracks_of(squares)
    truth_ids, track_ids, overlaps = [], [], []
    visits = Visits()
    for number, tracks in enumerate(clip):
        ids, boxes = truth(squares, number, visits)
        found = np.array([corners(track) for track in tracks]).reshape(-1, 4)
        truth_ids.append(ids)
        track_ids.append(np.array([track["id"] for track in tracks], int))
        overlaps.append(box_iou(boxes, found, "xyxy"))
    clear = compute_clear_metrics(truth_ids, track_ids, overlaps)
    identity = compute_identity_metrics(truth_ids, track_ids, overlaps)
    report = {
        "objects": sum(len(ids) for ids in truth_ids),
        "MOTA": round(clear["MOTA"], 3),
        "MOTP": round(clear["MOTP"], 3),
        "IDF1": round(identity["IDF1"], 3),
        "id switches": clear["IDSW"],
        "ids": len(set(np.concatenate(track_ids).tolist())),
    }
    for name, value in report.items():
        record_property(name, value)
    with capsys.disabled():
        print(f"\ntracking quality: {report}")  # noqa: T201 - it is what this test is for
    assert clear["MOTA"] > 0.9
    assert identity["IDF1"] > 0.9
    assert clear["IDSW"] <= 2


def wandering(number):
    """Smooth paths of different speed that cross repeatedly and leave the picture; no two alike."""
    positions = []
    for frame in range(300):
        time = frame / RATE
        x = SIZE / 2 + 210 * math.sin(0.5 * time * (1 + 0.13 * number) + 1.1 * number)
        y = SIZE / 2 + 120 * math.sin(0.37 * time * (1 + 0.21 * number) + 2.3 * number + 0.6)
        positions.append((x, y))
    return positions


class Visits:
    """An object that leaves the picture and returns is a new one, as in the MOT Challenge."""

    def __init__(self):
        self._visits = {}

    def identity(self, square, centre):
        number, inside = self._visits.get(square, (0, False))
        now = all(0 <= value < SIZE for value in centre)
        self._visits[square] = (number + (now and not inside), now)
        return 100 * square + self._visits[square][0]


def truth(squares, number, visits):
    """Identities and visible boxes of the squares that are visible enough."""
    picture = draw(squares, number, SIZE, SIDE)
    ids, boxes = [], []
    for index, square in enumerate(squares):
        identity = visits.identity(index, square.positions[number])
        rows, columns = np.nonzero(np.all(picture == square.colour, axis=2))
        if len(rows) >= VISIBLE * SIDE**2:
            ids.append(identity)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return np.array(ids, int), np.array(boxes, float).reshape(-1, 4)


def corners(track):
    return [track["x"], track["y"], track["x"] + track["width"], track["y"] + track["height"]]
