"""A failed start names the root cause, the chain that led there, and what to do."""

import importlib
import shutil
import subprocess
import sys

import pytest
from plugin_runtime.startup.failures import explain_call, explain_import
from plugin_runtime.startup.libraries import missing_libraries

CUDART = "libcudart.so.12: cannot open shared object file: No such file or directory"
LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"

# name, files (module → source), entrypoint's module, expected code, expected phrases of the sentence, expected chain
IMPORTS = [
    (
        "cuda library deep in a chain",
        {
            "video_tracker/__init__.py": "",
            "video_tracker/plugin.py": "import yolo\nimport yolo.models\n",
            "yolo/__init__.py": "",
            "yolo/models.py": "import torch\n",
            "torch/__init__.py": f"raise ImportError('{CUDART}')\n",
        },
        "video_tracker.plugin",
        "CUDA_UNAVAILABLE",
        ["libcudart.so.12 is missing (needed by torch, imported by yolo.models, imported by video_tracker.plugin)"],
        ("torch", "yolo.models", "video_tracker.plugin"),
    ),
    (
        "cuda library opened by ctypes, as torch does",
        {
            "plug_a.py": "import torch_a\n",
            "torch_a.py": "import ctypes\ndef load(): ctypes.CDLL('libcublas.so.11')\nload()\n",
        },
        "plug_a",
        "CUDA_UNAVAILABLE",
        ["libcublas.so.11 is missing (needed by torch_a, imported by plug_a)", "image: cuda"],
        ("torch_a", "plug_a"),
    ),
    (
        "system library",
        {"plug_b.py": "import cv2_b\n", "cv2_b.py": f"raise ImportError('{LIBGL}')\n"},
        "plug_b",
        "PACKAGE_MISSING",
        ["the system library libGL.so.1 is missing (needed by cv2_b, imported by plug_b)", "system_packages"],
        ("cv2_b", "plug_b"),
    ),
    (
        "package missing in a dependency",
        {"plug_c.py": "import middle_c\n", "middle_c.py": "import not_there_c.deep\n"},
        "plug_c",
        "PACKAGE_MISSING",
        ["not_there_c", "(imported by middle_c, imported by plug_c)", "requirements.txt"],
        ("middle_c", "plug_c"),
    ),
    (
        "the newest of several attempts is reported",
        {"plug_d.py": "try:\n    import first_d\nexcept ImportError:\n    import second_d\n"},
        "plug_d",
        "PACKAGE_MISSING",
        ["second_d is not installed (imported by plug_d)"],
        ("plug_d",),
    ),
    (
        "the cause behind a wrapper",
        {
            "plug_e.py": "import wrap_e\n",
            "wrap_e.py": "try:\n    import core_e\nexcept ImportError as e:\n    raise RuntimeError('broken') from e\n",
            "core_e.py": f"raise ImportError('{CUDART}')\n",
        },
        "plug_e",
        "CUDA_UNAVAILABLE",
        ["(needed by core_e, imported by wrap_e, imported by plug_e)"],
        ("core_e", "wrap_e", "plug_e"),
    ),
    (
        "an installed package without that module",
        {"plug_f.py": "import lib_f.nothere\n", "lib_f/__init__.py": ""},
        "plug_f",
        "PACKAGE_MISSING",
        ["the installed package lib_f has no module lib_f.nothere"],
        ("plug_f",),
    ),
    (
        "the entrypoint's module",
        {},
        "absent_g.plugin",
        "IMPORT_ERROR",
        ["the entrypoint's module absent_g does not exist", "plugin.yaml"],
        (),
    ),
    (
        "an own module",
        {"pkg_h/__init__.py": "", "pkg_h/plugin.py": "import pkg_h.helper\n"},
        "pkg_h.plugin",
        "IMPORT_ERROR",
        ["the plugin's own module pkg_h.helper does not exist"],
        ("pkg_h.plugin",),
    ),
    (
        "another exception",
        {"plug_i.py": "import lib_i\n", "lib_i.py": "\n1 / 0\n"},
        "plug_i",
        "IMPORT_ERROR",
        ["raised ZeroDivisionError: division by zero (lib_i line 2)", "lib_i, imported by plug_i"],
        ("lib_i", "plug_i"),
    ),
    (
        "sys.exit",
        {"plug_j.py": "import sys\nsys.exit(3)\n"},
        "plug_j",
        "IMPORT_ERROR",
        ["importing plug_j called sys.exit(3) (plug_j line 2)"],
        ("plug_j",),
    ),
    ("a syntax error", {"plug_k.py": "def f(:\n"}, "plug_k", "IMPORT_ERROR", ["SyntaxError", "plug_k.py, line 1"], ()),
    (
        "a name that a module does not have",
        {"plug_l.py": "from os import nothing_l\n"},
        "plug_l",
        "IMPORT_ERROR",
        ["cannot import name 'nothing_l'"],
        ("plug_l",),
    ),
]


@pytest.mark.parametrize(
    ("files", "module", "code", "phrases", "chain"), [case[1:] for case in IMPORTS], ids=[case[0] for case in IMPORTS]
)
def test_a_failed_import_names_root_cause_and_chain(tmp_path, monkeypatch, files, module, code, phrases, chain):
    monkeypatch.syspath_prepend(str(tmp_path))
    made = {name.partition("/")[0].removesuffix(".py") for name in files}
    # A plugin of this name may have been imported by its own tests.
    others = {name: loaded for name, loaded in sys.modules.items() if name.partition(".")[0] not in made}
    monkeypatch.setattr(sys, "modules", others)
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    with pytest.raises(BaseException) as caught:
        importlib.import_module(module)
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # without this function's own frame
    failure = explain_import(error, module)
    assert failure.code == code
    for phrase in phrases:
        assert phrase in failure.reason
    assert failure.chain == chain


class OddError(Exception):
    def __str__(self) -> str:
        raise SystemExit


def caught(error: BaseException) -> BaseException:
    with pytest.raises(type(error)) as raised:
        raise error
    return raised.value


CALLS = [
    (ValueError("bad size"), "VALIDATE_ERROR", "P.validate() raised ValueError: bad size"),
    (SystemExit(4), "VALIDATE_ERROR", "called sys.exit(4)"),
    (KeyboardInterrupt(), "VALIDATE_ERROR", "raised KeyboardInterrupt"),
    (OddError(), "VALIDATE_ERROR", "its message cannot be read: SystemExit"),
    (ModuleNotFoundError("No module named 'x'", name="x"), "PACKAGE_MISSING", "the package x is not installed"),
    (ImportError(CUDART), "CUDA_UNAVAILABLE", "libcudart.so.12 is missing"),
    (OSError(CUDART), "CUDA_UNAVAILABLE", "libcudart.so.12 is missing"),
    (AssertionError("Torch not compiled with CUDA enabled"), "CUDA_UNAVAILABLE", "Torch not compiled"),
    (RuntimeError("Found no NVIDIA driver on your system. Please"), "CUDA_UNAVAILABLE", "no NVIDIA driver"),
    (
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        "CUDA_UNAVAILABLE",
        "kernel",
    ),
    (RuntimeError("No CUDA GPUs are available"), "CUDA_UNAVAILABLE", "No CUDA GPUs"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "VALIDATE_ERROR", "out of memory"),
    (FileNotFoundError(2, "No such file", "/models/a.pt"), "MODEL_MISSING", "the file of model 'a' is missing"),
    (FileNotFoundError(2, "No such file", "/etc/other"), "VALIDATE_ERROR", "/etc/other"),
    (RuntimeError("PytorchStreamReader failed reading zip archive"), "MODEL_CORRUPT", "a model file is broken"),
]


@pytest.mark.parametrize(("error", "code", "part"), CALLS, ids=[repr(type(case[0]).__name__) for case in CALLS])
def test_a_failed_validate_is_reported_with_its_cause(error, code, part):
    failure = explain_call(caught(error), "VALIDATE_ERROR", "P.validate()", "plugin", {"a": "/models/a.pt"})
    assert failure.code == code
    assert part in failure.reason


def test_a_message_is_bounded_and_always_utf8():
    """A traceback of megabytes or a lone surrogate must not break the status object."""
    failure = explain_call(caught(ValueError("\ud800" + "x" * 10_000)), "INIT_ERROR", "P.__init__()", "plugin", {})
    assert len(failure.reason.encode()) < 3000


def test_a_chain_of_many_links_is_shortened_in_the_sentence():
    chain_error = ModuleNotFoundError("No module named 'zz'", name="zz")
    code = "raise error"
    for depth in range(10):
        code = f"exec(compile({code!r}, 'm', 'exec'), {{'__name__': 'mod{depth}', 'error': error}})"
    with pytest.raises(ModuleNotFoundError) as raised:
        exec(code, {"__name__": "outermost", "error": chain_error})
    failure = explain_import(raised.value, "outermost")
    assert "…" in failure.reason
    assert len(failure.chain) > 6


MISSING = {
    "one that is well known": (("libGL.so.1",), "cv2_n", ["library libGL.so.1 is missing", "add libgl1 to"]),
    "one that is not": (("libodd.so.3",), "odd_n", ["add the system package that has it to `system_packages`"]),
    "several": (
        ("libxcb.so.1", "libGL.so.1", "libgthread-2.0.so.0"),
        "cv3_n",
        [
            "the system libraries libxcb.so.1, libGL.so.1 and libgthread-2.0.so.0 are missing",
            "add libxcb1, libgl1 and libglib2.0-0 to `system_packages`",
        ],
    ),
    "two of one package": (
        ("libglib-2.0.so.0", "libgthread-2.0.so.0"),
        "glib_n",
        ["add libglib2.0-0 to `system_packages`"],
    ),
    "some that are well known": (
        ("libgomp.so.1", "libodd.so.3"),
        "mixed_n",
        ["add libgomp1 and the system package that has libodd.so.3 to `system_packages`"],
    ),
}


@pytest.mark.parametrize(("libraries", "module", "phrases"), MISSING.values(), ids=MISSING)
def test_all_missing_libraries_are_named_with_their_packages(libraries, module, phrases):
    error = ImportError(f"{libraries[0]}: cannot open shared object file: No such file or directory", name=module)
    failure = explain_import(error, "plug_n", libraries)
    assert failure.code == "PACKAGE_MISSING"
    for phrase in phrases:
        assert phrase in failure.reason


def test_for_opencv_the_build_without_a_display_is_named():
    error = ImportError(LIBGL, name="cv2")
    advice = "if requirements.txt itself names opencv-python, opencv-python-headless in its stead needs none"
    assert advice in explain_import(error, "plug_n").reason


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a compiler to make an extension")
def test_an_extension_is_searched_for_all_that_it_lacks(tmp_path):
    for name in ("one", "two"):
        source = tmp_path / f"{name}.c"
        source.write_text(f"int {name}(void) {{ return 1; }}")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / f"lib{name}.so", source], check=True)
    extension = tmp_path / "needs_two.so"
    (tmp_path / "e.c").write_text("int one(void), two(void); int both(void) { return one() + two(); }")
    command = ["gcc", "-shared", "-fPIC", "-o", extension, tmp_path / "e.c", f"-L{tmp_path}", "-lone", "-ltwo"]
    subprocess.run(command, check=True)
    error = ImportError("libone.so: cannot open shared object file", name="needs_two", path=str(extension))
    assert missing_libraries(error) == ("libone.so", "libtwo.so")
    assert missing_libraries(RuntimeError("wrapped")) == ()
    assert missing_libraries(ImportError("x", path=str(tmp_path / "nothing.so"))) == ()


def test_a_fault_in_a_library_is_reported_with_the_plugins_own_line(tmp_path, monkeypatch):
    (tmp_path / "cells_o").mkdir()
    (tmp_path / "cells_o" / "__init__.py").write_text("")
    (tmp_path / "cells_o" / "plugin.py").write_text("import lib_o\n\ndef validate():\n    lib_o.load()\n")
    (tmp_path / "lib_o.py").write_text("def load():\n    raise EOFError\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("cells_o.plugin")
    with pytest.raises(EOFError) as raised:
        module.validate()
    reason = explain_call(raised.value, "VALIDATE_ERROR", "Cells.validate()", "cells_o.plugin", {}).reason
    assert "raised EOFError (lib_o line 2), at cells_o/plugin.py:4; correct" in reason
