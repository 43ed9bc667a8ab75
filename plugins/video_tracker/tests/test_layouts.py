"""Each family's output, made by hand for known boxes, is read as those boxes."""

import numpy as np
import pytest
from video_tracker.layouts import EndToEnd, Queries, Size, Yolox, layout_of

SIZE = Size(64, 64)
FRAME = Size(128, 64)  # twice as wide as the model's input
BOX = [20.0, 10.0, 60.0, 30.0]
CELLS = 64 + 16 + 4


def logit(score):
    return np.log(score / (1 - score))


def queries(scores):
    x1, y1, x2, y2 = BOX
    box = [(x1 + x2) / 2 / 128, (y1 + y2) / 2 / 64, (x2 - x1) / 128, (y2 - y1) / 64]
    return {
        "logits": logit(np.array(scores, np.float32))[None],
        "pred_boxes": np.array([[box] * len(scores)], np.float32),
    }


def yolox(*cells):
    """A box in the model's input per (cell of the first grid, objectness, class scores)."""
    output = np.zeros((1, CELLS, 7), np.float32)
    for index, box, objectness, scores in cells:
        x1, y1, x2, y2 = np.array(box) / 2  # the frame is shrunk to half to fit
        offset = np.array([(x1 + x2) / 2, (y1 + y2) / 2]) / 8 - [index % 8, index // 8]
        output[0, index] = [*offset, np.log((x2 - x1) / 8), np.log((y2 - y1) / 8), objectness, *scores]
    return {"output": output}


class TestFamilies:
    def test_outputs_of_end_to_end_models_are_used_as_they_are(self):
        outputs = {
            "labels": np.array([[3, 1]]),
            "boxes": np.array([[BOX, [0, 0, 5, 5]]], np.float32),
            "scores": np.array([[0.6, 0.9]], np.float32),
        }
        found = EndToEnd().read(outputs, 0, FRAME, SIZE)
        assert found.corners.tolist() == [[0, 0, 5, 5], BOX]
        assert found.classes.tolist() == [1, 3]
        assert found.scores.tolist() == pytest.approx([0.9, 0.6])

    def test_queries_are_turned_into_pixels_and_their_best_class(self):
        found = Queries().read(queries([[0.2, 0.8, 0.3]]), 0, FRAME, SIZE)
        assert found.corners[0] == pytest.approx(BOX, abs=1e-3)
        assert found.classes.tolist() == [1]
        assert found.scores.tolist() == pytest.approx([0.8])

    def test_yolox_cells_are_turned_into_pixels_of_the_frame(self):
        found = Yolox().read(yolox((9, BOX, 0.9, (0.1, 0.8))), 0, FRAME, SIZE)
        assert found.corners[0] == pytest.approx(BOX, abs=1e-3)
        assert found.classes.tolist() == [1]
        assert found.scores.tolist() == pytest.approx([0.72])

    def test_yolox_gives_one_box_where_several_cells_see_the_same(self):
        shifted = [value + 2 for value in BOX]
        found = Yolox().read(yolox((9, BOX, 0.9, (0, 0.8)), (10, shifted, 0.9, (0, 0.9))), 0, FRAME, SIZE)
        assert len(found) == 1
        assert found.scores.tolist() == pytest.approx([0.81])

    def test_yolox_retains_overlapping_boxes_of_two_classes(self):
        found = Yolox().read(yolox((9, BOX, 0.9, (0, 0.8)), (10, BOX, 0.9, (0.9, 0))), 0, FRAME, SIZE)
        assert sorted(found.classes.tolist()) == [0, 1]


class TestNoise:
    @pytest.mark.parametrize(
        ("box", "score"),
        [
            (BOX, 0.05),
            (BOX, np.nan),
            ([np.nan] * 4, 0.9),
            ([60.0, 10.0, 20.0, 30.0], 0.9),
            ([200.0, 10.0, 300.0, 30.0], 0.9),
        ],
        ids=["weak", "score that is no number", "box that is no number", "turned over", "outside"],
    )
    def test_invalid_detections_are_dropped(self, box, score):
        outputs = {"labels": np.array([[0]]), "boxes": np.array([[box]]), "scores": np.array([[score]])}
        assert len(EndToEnd().read(outputs, 0, FRAME, SIZE)) == 0

    def test_boxes_end_at_the_frames_edge(self):
        outputs = {
            "labels": np.array([[0]]),
            "boxes": np.array([[[-20.0, -20.0, 500.0, 500.0]]]),
            "scores": np.array([[0.9]]),
        }
        assert EndToEnd().read(outputs, 0, FRAME, SIZE).corners.tolist() == [[0, 0, 128, 64]]


class TestInput:
    FRAME = np.dstack([np.full((64, 128), value, np.uint8) for value in (255, 51, 0)])

    @pytest.mark.parametrize("layout", [EndToEnd(), Queries()])
    def test_detr_models_get_red_green_blue_from_0_to_1_stretched(self, layout):
        tensor = layout.prepare(self.FRAME, SIZE)
        assert (tensor.shape, tensor.dtype) == ((3, 64, 64), np.float32)
        assert tensor[:, 5, 5].tolist() == pytest.approx([1, 0.2, 0])

    def test_yolox_gets_blue_green_red_from_0_to_255_with_its_proportions_unchanged(self):
        tensor = Yolox().prepare(self.FRAME, SIZE)
        assert tensor[:, 5, 5].tolist() == [0, 51, 255]
        assert tensor[:, 31, 63].tolist() == [0, 51, 255]
        assert tensor[:, 32, 5].tolist() == [114, 114, 114]


@pytest.mark.parametrize(
    ("outputs", "layout"),
    [
        ({"labels": ["N", 300], "boxes": ["N", 300, 4], "scores": ["N", 300]}, EndToEnd),
        ({"logits": ["N", 300, 80], "pred_boxes": ["N", 300, 4]}, Queries),
        ({"output": [1, CELLS, 85]}, Yolox),
    ],
)
def test_a_models_outputs_identify_its_family(outputs, layout):
    assert isinstance(layout_of(outputs, SIZE), layout)


@pytest.mark.parametrize("outputs", [{"output": [1, 1000]}, {"output": [1, 85, 8400]}, {"a": [1], "b": [1]}], ids=str)
def test_a_model_of_no_known_family_is_refused_with_what_it_has(outputs):
    with pytest.raises(RuntimeError, match=r"no known layout: (output|a) \[1"):
        layout_of(outputs, SIZE)
