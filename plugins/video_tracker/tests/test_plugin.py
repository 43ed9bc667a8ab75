"""The plugin class with a test model on the CPU, and its errors if the GPU or the model cannot be used."""

import base64
import itertools

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from plugin_runtime import InvalidInput, Progress
from plugin_runtime.startup.failures import explain_call
from squares_model import COLOURS, Square, draw, film, on_cpu, write_model
from video_tracker import cuda_session
from video_tracker.cuda_session import open_on_cuda
from video_tracker.media import open_video
from video_tracker.onnx_detector import OnnxDetector
from video_tracker.plugin import VideoTracker

SIZE, SIDE, FRAMES = 320, 32, 30
SQUARES = [
    Square(colour, [(40 + 4 * frame, 60 + 80 * number) for frame in range(FRAMES)])
    for number, colour in enumerate(COLOURS[:3])
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "detector.onnx", side=SIDE / SIZE)


@pytest.fixture(scope="module")
def tracker(model):
    plugin = VideoTracker(load=lambda: OnnxDetector(on_cpu(model)))
    plugin.validate()
    return plugin


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = [draw(SQUARES, frame, SIZE, SIDE) for frame in range(FRAMES)]
    return film(tmp_path_factory.mktemp("clip") / "squares.mp4", frames)


def png(picture):
    return cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()


def items_of(events):
    return [event for event in events if not isinstance(event, Progress)]


class TestDetectObjects:
    def test_objects_have_label_score_and_box(self, tracker):
        result = tracker.detect_objects(png(draw(SQUARES, 0, SIZE, SIDE)))
        assert (result["width"], result["height"]) == (SIZE, SIZE)
        assert len(result["objects"]) == 3
        found = min(result["objects"], key=lambda item: item["y"])
        assert (found["label"], found["score"]) == ("square", pytest.approx(1, abs=0.1))
        assert [found[key] for key in ("x", "y", "width", "height")] == pytest.approx([24, 44, 32, 32], abs=4)

    def test_objects_below_the_wanted_score_are_left_out(self, tracker):
        picture = draw(SQUARES[:1], 0, SIZE, SIDE)
        picture[44:64, :] = 90  # most of it is hidden
        assert tracker.detect_objects(png(picture))["objects"] == []
        assert len(tracker.detect_objects(png(picture), min_score=0.2)["objects"]) == 1

    def test_a_picture_without_objects_has_none(self, tracker):
        assert tracker.detect_objects(png(np.full((50, 70, 3), 90, np.uint8)))["objects"] == []

    @pytest.mark.parametrize("score", [0, 1.5, float("nan")])
    def test_a_score_that_makes_no_sense_is_refused(self, tracker, score):
        with pytest.raises(InvalidInput, match=r"min_score is .* must be from 0.1 to 1"):
            tracker.detect_objects(png(draw(SQUARES, 0, SIZE, SIDE)), min_score=score)


class TestTrackObjects:
    def test_every_frame_comes_with_its_time_and_tracks(self, tracker, clip):
        frames = items_of(tracker.track_objects(clip))
        assert [frame["frame"] for frame in frames] == list(range(FRAMES))
        assert frames[25]["time_seconds"] == 1.0
        assert [[track["id"] for track in frame["tracks"]] for frame in frames[1:]] == [[1, 2, 3]] * (FRAMES - 1)

    def test_progress_counts_up_to_the_number_of_frames(self, tracker, clip):
        progress = [event for event in tracker.track_objects(clip) if isinstance(event, Progress)]
        assert [event.message for event in progress] == [f"frame {n} of 30" for n in (1, 9, 17, 25)]

    def test_a_caller_that_has_seen_enough_ends_it(self, tracker, clip):
        events = tracker.track_objects(clip)
        next(events)
        events.close()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"min_score": 0}, "min_score is"),
            ({"lost_seconds": -1}, "lost_seconds is"),
            ({"every": 0}, "every is"),
            ({"labels": ["cat"]}, "has no label 'cat'; it has: square"),
        ],
        ids=str,
    )
    def test_options_that_make_no_sense_are_refused(self, tracker, clip, options, message):
        with pytest.raises(InvalidInput, match=message):
            next(tracker.track_objects(clip, **options))

    def test_what_is_no_video_is_refused(self, tracker, tmp_path):
        upload = tmp_path / "upload"
        upload.write_bytes(b"no video")
        with pytest.raises(InvalidInput, match="no video that can be opened"):
            next(tracker.track_objects(upload))


class TestAnnotate:
    def whole(self, pieces, path):
        assert [part["part"] for part in pieces] == list(range(len(pieces)))
        assert {part["media_type"] for part in pieces} == {"video/mp4"}
        path.write_bytes(b"".join(base64.b64decode(part["data"]) for part in pieces))
        return path

    def test_the_pieces_are_a_video_of_as_many_frames_at_the_same_times(self, tracker, clip, tmp_path):
        made = self.whole(items_of(tracker.annotate(clip)), tmp_path / "made.mp4")
        with open_video(made) as video:
            frames = list(video.frames())
        assert frames[0].picture.shape == (SIZE, SIZE, 3)
        assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(FRAMES)], abs=1e-3)

    def test_boxes_are_drawn_where_the_objects_are(self, tracker, clip, tmp_path):
        made = self.whole(items_of(tracker.annotate(clip)), tmp_path / "made.mp4")
        with open_video(made) as video, open_video(clip) as original:
            drawn = next(itertools.islice(video.frames(), 20, None)).picture.astype(int)
            plain = next(itertools.islice(original.frames(), 20, None)).picture.astype(int)
        x, y = SQUARES[1].positions[20]
        frame = np.abs(drawn - plain).max(axis=2)
        around = frame[int(y) - 20 : int(y) + 20, int(x) - 20 : int(x) + 20]
        assert np.count_nonzero(around > 60) > 50
        assert np.count_nonzero(frame[-40:, -40:] > 60) == 0

    def test_a_wide_video_is_scaled_down_to_even_sides(self, tracker, clip, tmp_path):
        made = self.whole(items_of(tracker.annotate(clip, max_width=101)), tmp_path / "made.mp4")
        with open_video(made) as video:
            assert next(video.frames()).picture.shape == (100, 100, 3)

    @pytest.mark.slow
    def test_pieces_arrive_while_the_video_is_encoded(self, tracker, tmp_path, monkeypatch):
        """A piece ends with each key frame, every two seconds: this clip has four."""
        monkeypatch.setattr("video_tracker.plugin.PART_BYTES", 1000)
        long = film(tmp_path / "long.mp4", [draw(SQUARES, 0, SIZE, SIDE)] * 100, rate=12)
        events = list(tracker.annotate(long))
        kinds = [isinstance(event, Progress) for event in events]
        assert kinds.index(False) < len(kinds) - 1 - kinds[::-1].index(True)

    def test_more_than_a_result_may_hold_is_refused_with_what_to_do(self, tracker, clip, monkeypatch):
        monkeypatch.setenv("PLUGIN_MAX_RESULT", str(66 * 1024))
        monkeypatch.setattr("video_tracker.plugin.PART_BYTES", 1000)
        with pytest.raises(InvalidInput, match="lower max_width"):
            list(tracker.annotate(clip))

    def test_a_caller_that_has_seen_enough_ends_it(self, tracker, clip):
        events = tracker.annotate(clip)
        for _ in range(3):
            next(events)
        events.close()


class TestModels:
    def test_one_that_takes_single_frames_gets_them_one_by_one(self, tmp_path):
        single = write_model(tmp_path / "single.onnx", side=SIDE / SIZE, batch=1)
        detector = OnnxDetector(on_cpu(single))
        assert [len(found) for found in detector.detect([draw(SQUARES, 0, SIZE, SIDE)] * 3)] == [3, 3, 3]

    def test_frames_of_several_sizes_have_their_boxes_in_their_own_pixels(self, model):
        square = draw(SQUARES[:1], 0, SIZE, SIDE)
        wide = cv2.resize(square, (640, 320))
        first, second = OnnxDetector(on_cpu(model)).detect([square, wide])
        assert second.corners[0] == pytest.approx(first.corners[0] * [2, 1, 2, 1], abs=3)

    def test_labels_that_are_no_list_are_refused(self, model, tmp_path):
        import onnx  # noqa: PLC0415

        changed = onnx.load(model)
        changed.metadata_props[0].value = "{}"
        onnx.save(changed, tmp_path / "changed.onnx")
        with pytest.raises(RuntimeError, match="expected a JSON list of names"):
            OnnxDetector(on_cpu(tmp_path / "changed.onnx"))


class TestStart:
    """What validate() raises, as the runtime reads it."""

    def explained(self, load):
        with pytest.raises(Exception) as raised:  # noqa: PT011 - any: what it means is judged below
            VideoTracker(load=load).validate()
        models = {"detector": "/models/detector/detector.onnx"}
        return explain_call(raised.value, "VALIDATE_ERROR", "validate()", "video_tracker.plugin", models)

    def test_without_a_gpu_it_is_cuda_that_is_missing(self, model):
        if "CUDAExecutionProvider" in ort.get_available_providers():
            pytest.skip("this onnxruntime has CUDA")
        failure = self.explained(lambda: OnnxDetector(open_on_cuda(model)))
        assert failure.code == "CUDA_UNAVAILABLE"
        assert "onnxruntime-gpu" in failure.reason

    def test_onnxruntime_that_fell_back_to_the_cpu_is_refused(self, model, monkeypatch):
        """As it does if one of CUDA's libraries is missing."""
        providers = [*ort.get_available_providers(), cuda_session.PROVIDER]
        session = on_cpu(model)
        monkeypatch.setattr(cuda_session.ort, "get_available_providers", lambda: providers)
        monkeypatch.setattr(cuda_session.ort, "preload_dlls", lambda: None)
        monkeypatch.setattr(cuda_session.ort, "InferenceSession", lambda *_, **__: session)
        missing = "libcudnn.so.9: cannot open shared object file: No such file or directory"

        def load(_):
            raise OSError(missing)

        monkeypatch.setattr(cuda_session.ctypes, "CDLL", load)
        failure = self.explained(lambda: OnnxDetector(open_on_cuda(model)))
        assert failure.code == "CUDA_UNAVAILABLE"
        assert "libcudnn.so.9 is missing" in failure.reason

    def test_a_driver_that_is_too_old_is_named(self, model, monkeypatch):
        """ONNX Runtime's own message, within a page of C++ types."""
        words = (
            "cuda_call.cc:114 std::conditional_t<THRW> CUDA failure 35: CUDA driver version is insufficient for CUDA"
        )

        def refuse(*_, **__):
            raise RuntimeError(f"{words} runtime version ; GPU=-1 ; hostname=h ; expr=cudaSetDevice(id);")

        monkeypatch.setattr(cuda_session.ort, "get_available_providers", lambda: [cuda_session.PROVIDER])
        monkeypatch.setattr(cuda_session.ort, "preload_dlls", lambda: None)
        monkeypatch.setattr(cuda_session.ort, "InferenceSession", refuse)
        failure = self.explained(lambda: OnnxDetector(open_on_cuda(model)))
        assert failure.code == "CUDA_UNAVAILABLE"
        assert "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version" in failure.reason
        assert "std::" not in failure.reason

    def test_a_model_file_that_broke_off_is_corrupt(self, model, tmp_path):
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(model.read_bytes()[: len(model.read_bytes()) // 2])
        failure = self.explained(lambda: OnnxDetector(on_cpu(cut)))
        assert failure.code == "MODEL_CORRUPT"
        assert "detector" in failure.reason

    def test_a_model_that_detects_nothing_we_know_is_named_with_its_outputs(self, tmp_path):
        from onnx import TensorProto, helper, save  # noqa: PLC0415

        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("images", "other")]
        graph = helper.make_graph([helper.make_node("Relu", ["images"], ["other"])], "g", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        save(model, tmp_path / "other.onnx")
        failure = self.explained(lambda: OnnxDetector(on_cpu(tmp_path / "other.onnx")))
        assert failure.code == "VALIDATE_ERROR"
        assert "other [1, 3, 64, 64]" in failure.reason
