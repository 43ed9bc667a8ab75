"""A detector in TorchScript: with torch where that is installed, else with a stand-in for it."""

import importlib.util
import json
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import video_tracker
from plugin_runtime.startup.failures import explain_call
from squares_model import COLOURS, INPUT, Square, draw, on_cpu, write_model
from video_tracker import plugin
from video_tracker.onnx_detector import OnnxDetector
from video_tracker.plugin import VideoTracker

SIZE, SIDE = 320, 32
SQUARES = [Square(colour, [(60, 60 + 80 * number)]) for number, colour in enumerate(COLOURS[:3])]
EXTRA = {"labels": json.dumps(["square"]), "size": json.dumps([INPUT, INPUT])}


class Tensor:
    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape = self.array.shape

    @property
    def dtype(self):
        return self.array.dtype.type

    def to(self, _device, dtype=None):
        return Tensor(self.array if dtype is None else self.array.astype(dtype))

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class Script:
    """A loaded TorchScript module: `run` has the model's own parameters, NumPy arrays."""

    def __init__(self, run, inputs=2, floats=np.float32):
        self.run, self.floats, self.seen = run, floats, []
        self.forward = SimpleNamespace(schema=SimpleNamespace(arguments=range(inputs + 1)))

    def eval(self):
        return self

    def parameters(self):
        return [Tensor(np.zeros(1, np.int64)), Tensor(np.zeros(1, self.floats))]

    def __call__(self, *inputs):
        self.seen.append([(each.shape, each.dtype) for each in inputs])
        outputs = self.run(*(each.array for each in inputs))
        if isinstance(outputs, dict):
            return {name: Tensor(value) for name, value in outputs.items()}
        return tuple(Tensor(value) for value in outputs) if isinstance(outputs, tuple) else Tensor(outputs)


def forget(monkeypatch, name):
    """Have this module of the plugin imported anew."""
    monkeypatch.delitem(sys.modules, f"video_tracker.{name}", raising=False)
    monkeypatch.delattr(video_tracker, name, raising=False)


@pytest.fixture
def torch(monkeypatch):
    """The stand-in, in torch's place. `scripts`: by file name, what is loaded and its extra files."""
    module = ModuleType("torch")
    module.scripts = {}

    def load(path, map_location, _extra_files):
        name = path.rpartition("/")[2]
        if name not in module.scripts:
            raise RuntimeError("PytorchStreamReader failed locating file constants.pkl: file not found\nC++ frames")
        script, extra = module.scripts[name]
        _extra_files.update({key: extra[key].encode() for key in _extra_files if key in extra})
        module.loaded_on = map_location
        return script

    module.__version__, module.version = "2.8.0", SimpleNamespace(cuda="12.8")
    module.cuda = SimpleNamespace(is_available=lambda: True)
    module.jit = SimpleNamespace(load=load)
    module.Tensor, module.from_numpy, module.float32 = Tensor, Tensor, np.float32
    module.inference_mode = nullcontext
    monkeypatch.setitem(sys.modules, "torch", module)
    forget(monkeypatch, "torch_detector")
    yield module
    # Not by `monkeypatch`, which would put it back.
    sys.modules.pop("video_tracker.torch_detector", None)
    vars(video_tracker).pop("torch_detector", None)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return on_cpu(write_model(tmp_path_factory.mktemp("model") / "squares.onnx", side=SIDE / SIZE))


@pytest.fixture
def squares(session):
    """The ONNX model as a script: labels, boxes and scores."""
    return Script(lambda images, sizes: tuple(session.run(None, {"images": images, "orig_target_sizes": sizes})))


@pytest.fixture
def load(torch, monkeypatch, tmp_path):
    """Load a detector as the plugin does, from a file of this name."""

    def load(script, name="detector.pt", extra=EXTRA):
        torch.scripts[name] = script, extra
        monkeypatch.setattr(plugin, "model_path", lambda _: tmp_path / name)
        return plugin.load_detector()

    return load


def failure_of(load):
    """As the runtime reads what `validate` raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the runtime takes anything
        VideoTracker(load).validate()
    models = {"detector": "/models/detector/detector.pt"}
    return explain_call(raised.value, "VALIDATE_ERROR", "validate()", "video_tracker.plugin", models)


@pytest.mark.parametrize("name", ["detector.pt", "detector.torchscript", "DETECTOR.PT"])
def test_it_detects_what_the_same_model_in_onnx_does(load, torch, squares, session, name):
    frames = [draw(SQUARES, 0, SIZE, SIDE)] * 3
    found, same = load(squares, name).detect(frames), OnnxDetector(session).detect(frames)
    for one, other in zip(found, same, strict=True):
        assert one.corners == pytest.approx(other.corners)
        assert one.scores == pytest.approx(other.scores)
    assert torch.loaded_on == "cuda"


def test_its_batches_are_of_one_size_and_the_models_floats(load, squares):
    squares.floats = np.float16
    run, squares.run = squares.run, lambda images, sizes: run(images.astype(np.float32), sizes)
    detector = load(squares)
    detector.detect([draw(SQUARES, 0, SIZE, SIDE)] * 11)
    assert squares.seen == [[((8, 3, INPUT, INPUT), np.float16), ((8, 2), np.int64)]] * 3
    assert detector.labels == ["square"]


def test_outputs_may_have_names(load, squares):
    run = squares.run
    squares.run = lambda *inputs: dict(zip(("labels", "boxes", "scores"), run(*inputs), strict=True))
    assert len(load(squares).detect([draw(SQUARES, 0, SIZE, SIDE)])[0]) == 3


def test_logits_and_boxes_are_those_of_transformers(load):
    logits, boxes = np.full((8, 1, 2), -9.0, np.float32), np.tile(np.float32([0.5, 0.5, 0.5, 0.5]), (8, 1, 1))
    logits[:, 0, 1] = 9
    (found,) = load(Script(lambda _: (logits, boxes), inputs=1)).detect([np.zeros((100, 200, 3), np.uint8)])
    assert found.corners[0] == pytest.approx([50, 25, 150, 75])
    assert found.classes.tolist() == [1]


def test_a_single_output_is_yolox(load):
    cells = np.full((8, 12 * 12 + 6 * 6 + 3 * 3, 6), -1.0, np.float32)
    (found,) = load(Script(lambda _: cells, inputs=1)).detect([np.zeros((INPUT, INPUT, 3), np.uint8)])
    assert len(found) >= 1


def test_without_a_size_it_is_640(load, squares):
    squares.run = lambda images, sizes: dict.fromkeys(("labels", "boxes", "scores"), np.zeros((8, 0, 4)))
    load(squares, extra={})
    assert squares.seen[0][0][0] == (8, 3, 640, 640)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": {"size": "[1]"}}, "expected \\[height, width\\]"),
        ({"extra": {"labels": "{}"}}, "JSON list of names"),
        ({"inputs": 3}, "takes 3 inputs"),
        ({"run": lambda *_: (np.zeros(1),) * 4}, "4 outputs without names"),
        ({"run": lambda *_: {"mask": np.zeros((8, 1))}}, "no known layout: mask"),
    ],
)
def test_another_model_is_refused_with_what_is_expected(load, squares, change, words):
    script = Script(change.get("run", squares.run), change.get("inputs", 2))
    with pytest.raises(RuntimeError, match=words):
        load(script, extra=EXTRA | change.get("extra", {}))


def test_weights_alone_are_no_model(torch, monkeypatch, tmp_path):
    monkeypatch.setattr(plugin, "model_path", lambda _: tmp_path / "weights.pt")
    failure = failure_of(plugin.load_detector)
    assert failure.code == "VALIDATE_ERROR"
    assert "weights.pt has weights alone" in failure.reason
    assert "torch.jit.trace" in failure.reason


def test_a_file_that_is_cut_off_is_corrupt(torch, monkeypatch, tmp_path):
    def load(*_, **__):
        raise RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory")

    torch.jit.load = load
    monkeypatch.setattr(plugin, "model_path", lambda _: tmp_path / "cut.pt")
    assert failure_of(plugin.load_detector).code == "MODEL_CORRUPT"


@pytest.mark.parametrize(("built", "words"), [("12.8", "finds no GPU that works"), (None, "built without CUDA")])
def test_without_cuda_there_is_no_fall_back(load, torch, squares, built, words):
    torch.cuda.is_available, torch.version.cuda = lambda: False, built
    failure = failure_of(lambda: load(squares))
    assert (failure.code, words in failure.reason) == ("CUDA_UNAVAILABLE", True)


def test_only_the_library_of_its_suffix_needs_to_be_installed(load, squares, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("onnx_detector", "cuda_session"):
        forget(monkeypatch, name)
    tracker = VideoTracker(lambda: load(squares))
    tracker.validate()
    monkeypatch.setattr(plugin, "model_path", lambda _: tmp_path / "detector.onnx")
    failure = failure_of(plugin.load_detector)
    assert (failure.code, "onnxruntime" in failure.reason) == ("PACKAGE_MISSING", True)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_with_torch_itself(tmp_path):
    import torch  # noqa: PLC0415
    from video_tracker.torch_detector import TorchDetector  # noqa: PLC0415

    class Centre(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("share", torch.tensor([0.25, 0.25, 0.75, 0.75]))

        def forward(self, images, sizes):
            count = images.shape[0]
            corners = self.share * torch.cat([sizes, sizes], 1)
            return torch.zeros(count, 1, dtype=torch.int64), corners.unsqueeze(1), torch.ones(count, 1)

    path = tmp_path / "centre.pt"
    scripted = torch.jit.trace(Centre().eval(), (torch.zeros(2, 3, 32, 64), torch.ones(2, 2, dtype=torch.int64)))
    torch.jit.save(scripted, str(path), _extra_files={"labels": '["centre"]', "size": "[32, 64]"})
    detector = TorchDetector(path, "cpu")
    found = detector.detect([np.zeros((100, 200, 3), np.uint8)] * 9)
    assert detector.labels == ["centre"]
    assert len(found) == 9
    assert found[8].corners[0] == pytest.approx([50, 25, 150, 75])
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(RuntimeError, match="weights alone"):
        TorchDetector(path, "cpu")
