"""What raises while it reads a model names the model, its file and the plugin's own line."""

import importlib
import io
import json
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from plugin_runtime import authoring
from plugin_runtime.startup.failures import Failure, explain_call, explain_import
from plugin_runtime.startup.model_files import check_model
from unit.plugin_runtime.model_samples import external_onnx

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"
LIBRARY = """
    import json, pickle, zlib

    def load(filename):
        with open(filename, "rb") as file:
            return pickle.load(file)

    def load_python(filename):
        with open(filename, "rb") as file:
            return pickle._Unpickler(file).load()

    def load_compressed(filename):
        with open(filename, "rb") as file:
            data = file.read()
        del file
        return zlib.decompress(data)

    def load_folder(folder):
        found = {}
        for name in ("config.json", "weights.h5"):
            read(str(folder) + "/" + name)

    def read(path):
        with open(path, "rb") as file:
            data = file.read()
        if not data.startswith(b"{"):
            raise OSError("Unable to open file")

    def refuse(filename):
        raise ValueError("this version is too old")

    def wrapped(filename):
        try:
            return load(filename)
        except Exception as error:
            raise OSError("the weights cannot be loaded") from error
"""
PICKLED = pickle.dumps({"weights": list(range(500))})


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a plugin's code, whose models `a` and `b` have these contents, until it raises."""

    def run(code: str, a: bytes = PICKLED[:-50], b: bytes = PICKLED) -> Failure:
        (tmp_path / "reader_lib.py").write_text(_dedented(LIBRARY))
        (tmp_path / "cells").mkdir()
        (tmp_path / "cells" / "__init__.py").touch()
        (tmp_path / "cells" / "plugin.py").write_text(f"import pickle\nimport reader_lib\n{_dedented(code).lstrip()}")
        models = {"a": str(tmp_path / "models" / "a" / "a.pkl"), "b": str(tmp_path / "models" / "b" / "b.pkl")}
        for path, content in zip(models.values(), (a, b), strict=True):
            Path(path).parent.mkdir(parents=True)
            Path(path).write_bytes(content)
        monkeypatch.setenv("PLUGIN_MODELS", json.dumps(models))
        monkeypatch.setattr(authoring, "_last_model", [])
        monkeypatch.syspath_prepend(str(tmp_path))
        others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] != "cells"}
        monkeypatch.setattr(sys, "modules", {name: others[name] for name in others if name != "reader_lib"})
        error = _raised(lambda: importlib.import_module("cells.plugin"))
        if error is not None:
            return explain_import(error, "cells.plugin", models=models)
        error = _raised(sys.modules["cells.plugin"].validate)
        assert error is not None
        return explain_call(error, "VALIDATE_ERROR", "Cells.validate()", "cells.plugin", models)

    return run


def _raised(call: Any) -> BaseException | None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001
        return error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)
    return None


def _dedented(code: str) -> str:
    import textwrap

    return textwrap.dedent(code)


def test_a_truncated_pickle_in_a_library(fail):
    failure = fail("""
        from plugin_runtime import model_path

        def validate():
            reader_lib.load(model_path("b"))
            reader_lib.load(model_path("a"))
    """)
    assert failure.code == "MODEL_CORRUPT"
    assert failure.reason == (
        "model 'a' (a.pkl) is broken: UnpicklingError: pickle data was truncated, at cells/plugin.py:7 (read by"
        " reader_lib, imported by cells.plugin); fetch it again"
    )


def test_an_eof_error_without_a_word(fail):
    """As joblib raises it."""
    failure = fail(
        """
        from plugin_runtime import models

        def validate():
            paths = models()
            reader_lib.load_python(paths["a"])
        """,
        a=PICKLED[:1] + PICKLED[1:2],
    )
    assert failure.code == "MODEL_CORRUPT"
    assert failure.reason.startswith("model 'a' (a.pkl) is broken: EOFError, at cells/plugin.py:7 (read by reader_lib")


@pytest.mark.parametrize("end", [b"", b"K", b"M,", b"J\0\0", b"X\x10\0\0"], ids=repr)
def test_wherever_joblibs_reader_meets_the_end(fail, end):
    """Before an instruction, before a byte, within numbers of two and four bytes, within a length."""
    failure = fail(
        """
        from plugin_runtime import model_path

        def validate():
            reader_lib.load_python(model_path("a"))
        """,
        a=b"\x80\x02]" + end,
    )
    assert failure.code == "MODEL_CORRUPT", failure.reason


def test_a_truncated_compressed_file(fail):
    failure = fail(
        """
        from plugin_runtime import model_path

        def validate():
            reader_lib.load_compressed(model_path("a"))
        """,
        a=zlib.compress(PICKLED)[:-20],
    )
    assert failure.code == "MODEL_CORRUPT"
    assert "model 'a' (a.pkl) is broken: error: Error -5 while decompressing data: incomplete" in failure.reason
    assert "at cells/plugin.py:6 " in failure.reason


@pytest.mark.parametrize(
    "code",
    [
        "with model_path('a').open('rb') as file:\n            pickle.load(file)",
        "path = model_path('a')\n        pickle.loads(path.read_bytes())",
        (
            "path = str(model_path('a'))\n"
            "        with open(path, 'rb') as file:\n"
            "            data = file.read()\n"
            "        pickle.loads(data)"
        ),
    ],
)
def test_a_truncated_pickle_that_the_plugin_reads_itself(fail, code):
    failure = fail(f"""
    from plugin_runtime import model_path

    def validate():
        {code}
    """)
    assert failure.code == "MODEL_CORRUPT"
    assert failure.reason.startswith(
        "model 'a' (a.pkl) is broken: UnpicklingError: pickle data was truncated, at cells/"
    )


def test_where_nothing_has_it_in_hand_it_is_the_one_that_was_asked_for_last(fail):
    """Which need not be the one that is broken, so nothing more is said of it."""
    failure = fail("""
        from plugin_runtime import model_path

        def validate():
            model_path("b")
            pickle.loads(model_path("a").read_bytes())
    """)
    assert failure.code == "VALIDATE_ERROR"
    assert failure.reason == (
        "Cells.validate() raised UnpicklingError: pickle data was truncated (cells.plugin line 7); model 'a' (a.pkl)"
        " was the last that was asked for; correct the plugin or what it loads"
    )


def test_of_several_in_one_call_all_are_named(fail):
    failure = fail("""
        from plugin_runtime import model_path

        def validate():
            one, other = model_path("a"), model_path("b")
            pickle.loads(one.read_bytes())
    """)
    assert failure.reason.startswith("model 'a' (a.pkl) or model 'b' (b.pkl) is broken: UnpicklingError")


def test_what_may_be_the_plugins_own_fault_is_not_called_corrupt(fail):
    """A wrong way of loading says the same as a wrong file."""
    failure = fail(
        """
        from plugin_runtime import model_path

        def validate():
            reader_lib.load(model_path("a"))
        """,
        a=zlib.compress(PICKLED),
    )
    assert failure.code == "VALIDATE_ERROR"
    assert failure.reason == (
        "Cells.validate() raised UnpicklingError: invalid load key, 'x'. (reader_lib line 6), at cells/plugin.py:6,"
        " reading model 'a' (a.pkl); correct the plugin or what it loads"
    )


def test_any_exception_of_a_library_with_a_model_in_hand_names_it(fail):
    failure = fail("""
        from plugin_runtime import model_path

        def validate():
            reader_lib.refuse(model_path("a"))
    """)
    assert failure.code == "VALIDATE_ERROR"
    assert "raised ValueError: this version is too old (reader_lib line " in failure.reason
    assert ", at cells/plugin.py:6, reading model 'a' (a.pkl); " in failure.reason


def test_an_exception_of_the_plugins_own_names_none(fail):
    """It has its models in hand whatever it does."""
    failure = fail("""
        from plugin_runtime import model_path

        def validate():
            path = model_path("a")
            raise ValueError("the picture is empty")
    """)
    assert failure.code == "VALIDATE_ERROR"
    assert "model" not in failure.reason


def test_the_end_of_something_else_is_no_broken_model(fail):
    """A pipe whose other side died raises EOFError too."""
    failure = fail("""
        import multiprocessing
        from plugin_runtime import model_path

        def validate():
            path = model_path("a")
            here, there = multiprocessing.Pipe()
            there.close()
            here.recv()
    """)
    assert failure.code == "VALIDATE_ERROR"


def test_the_cause_counts_before_what_a_library_made_of_it(fail):
    failure = fail("""
        from plugin_runtime import model_path

        def validate():
            reader_lib.wrapped(model_path("a"))
    """)
    assert failure.code == "MODEL_CORRUPT"
    assert (
        "model 'a' (a.pkl) is broken: UnpicklingError: pickle data was truncated, at cells/plugin.py:6"
        in failure.reason
    )


def test_a_model_that_is_loaded_while_the_plugin_is_imported(fail):
    failure = fail("""
        from plugin_runtime import model_path

        MODEL = reader_lib.load(model_path("a"))
    """)
    assert failure.code == "MODEL_CORRUPT"
    assert "model 'a' (a.pkl) is broken: " in failure.reason
    assert ", at cells/plugin.py:5 " in failure.reason


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the model `hub`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "folder_lib", raising=False)
    (tmp_path / "folder_lib.py").write_text(_dedented(LIBRARY))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_bytes(b"{}")
    return tmp_path / "hub"


def explained(folder: Path) -> Failure:
    library = importlib.import_module("folder_lib")
    error = _raised(lambda: library.load_folder(folder))
    assert error is not None
    return explain_call(error, "VALIDATE_ERROR", "P.validate()", "plugin", {"hub": str(folder)})


def test_in_a_folder_the_file_is_named(folder):
    (folder / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    failure = explained(folder)
    assert failure.code == "VALIDATE_ERROR"
    assert ", reading model 'hub' (weights.h5); " in failure.reason


def test_a_file_that_the_check_of_the_folder_let_through_is_judged_again(folder):
    """A pointer beside other weights may never be read; this one was."""
    (folder / "weights.h5").write_bytes(LFS)
    failure = explained(folder)
    assert failure.code == "MODEL_CORRUPT"
    assert failure.reason.startswith(
        "model 'hub' (weights.h5) is a Git LFS pointer and not the model; run `git lfs pull`"
    )


def test_a_file_of_a_folder_that_is_missing_is_model_missing(folder):
    failure = explained(folder)
    assert failure.code == "MODEL_MISSING"
    assert failure.reason.startswith("the file weights.h5 of model 'hub' is missing")


def test_a_file_that_may_not_be_read_is_not_called_missing(folder):
    error = _raised(lambda: (_ for _ in ()).throw(PermissionError(13, "Permission denied", str(folder / "weights.h5"))))
    assert error is not None
    failure = explain_call(error, "VALIDATE_ERROR", "P.validate()", "plugin", {"hub": str(folder)})
    assert failure.code == "MODEL_MISSING"
    assert failure.reason.startswith("the file weights.h5 of model 'hub' may not be read")


def test_an_onnx_graph_that_is_declared_without_its_data(tmp_path):
    """The check lets it through, since a plugin may bring both together by itself."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = external_onnx(tmp_path)
    (tmp_path / "model.onnx_data").unlink()
    assert check_model("net", model).failure is None
    error = _raised(lambda: onnxruntime.InferenceSession(str(model)))
    assert error is not None
    failure = explain_call(error, "VALIDATE_ERROR", "P.validate()", "plugin", {"net": str(model)})
    assert failure.code == "MODEL_MISSING"
    assert failure.reason.startswith(
        "model 'net' (model.onnx) has its weights in model.onnx_data, which the container does not have beside it (read"
        " by onnxruntime"
    )
    assert failure.reason.endswith("; declare the folder that has both as the model")


def test_what_a_plugins_variables_do_when_they_are_looked_at_does_not_matter():
    class Odd(io.RawIOBase):
        @property
        def name(self):
            raise SystemExit

    class OddPath:
        def __fspath__(self):
            raise RuntimeError

    def validate(odd, path, paths):
        raise EOFError("Ran out of input")

    error = _raised(lambda: validate(Odd(), OddPath(), ["/models/a.pkl"]))
    assert error is not None
    failure = explain_call(error, "VALIDATE_ERROR", "P.validate()", "plugin", {"a": "/models/a.pkl"})
    assert failure.code == "VALIDATE_ERROR"
