"""Why a plugin could not start: the reason codes, and how an exception becomes a code, a sentence (what, where, what to
do) and the import chain. Pure, but for a look at the model that was being read.
"""

from __future__ import annotations

import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.startup.model_faults import being_read, find_model_fault
from plugin_runtime.tools.gpu_memory import GPU_OUT_OF_MEMORY
from plugin_runtime.tools.plugin_errors import links, message_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

# Every code that PROTOCOL.md lists for the phase `failed`
PACKAGE_MISSING = "PACKAGE_MISSING"
MODEL_MISSING = "MODEL_MISSING"
MODEL_CORRUPT = "MODEL_CORRUPT"
GPU_NOT_FOUND = "GPU_NOT_FOUND"
GPU_DRIVER_ERROR = "GPU_DRIVER_ERROR"
GPU_RUNTIME_MISSING = "GPU_RUNTIME_MISSING"
GPU_LOST = "GPU_LOST"
CUDA_UNAVAILABLE = "CUDA_UNAVAILABLE"
LIMITS_UNSUPPORTED = "LIMITS_UNSUPPORTED"
IMPORT_ERROR = "IMPORT_ERROR"
INIT_ERROR = "INIT_ERROR"
VALIDATE_MISSING = "VALIDATE_MISSING"
VALIDATE_ERROR = "VALIDATE_ERROR"

MAX_CHAIN = 6
"""Modules named in a sentence."""

# Patterns are compiled at their first use: most starts need none, and compiling them takes 10 ms.
MISSING_LIBRARY = r"(lib[\w.+-]*?\.so[\w.]*): cannot open shared object file"
CUDA_LIBRARY = (
    r"lib(cuda|cudart|cublas|cublasLt|cudnn\w*|cufft|cufftw|cufile|curand|cusparse|cusparseLt|cusolver|cupti|nccl"
    r"|npp\w+|nvidia-\w+|nvinfer\w*|nvjpeg|nvjitlink|nvJitLink|nvonnxparser|nvparsers|nvrtc\S*|nvToolsExt|nvcuvid)\.so"
)
CUDA_MESSAGE = (
    r"Torch not compiled with CUDA enabled"
    r"|Found no NVIDIA driver"
    r"|No CUDA GPUs are available"
    r"|CUDA (driver|unknown) (initialization|error)"
    r"|CUDA driver version is insufficient|cudaErrorInsufficientDriver"
    r"|no CUDA-capable device|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE"
    r"|CUDA initialization"
    r"|no kernel image is available for execution"
    r"|driver on your system is too old"
    r"|Attempting to deserialize object on a CUDA device but torch\.cuda\.is_available\(\) is False"
)
DEBIAN_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libGLX.so.0": "libglx0",
    "libEGL.so.1": "libegl1",
    "libOpenGL.so.0": "libopengl0",
    "libGLU.so.1": "libglu1-mesa",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libgobject-2.0.so.0": "libglib2.0-0",
    "libgio-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libXi.so.6": "libxi6",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libgomp.so.1": "libgomp1",
    "libsndfile.so.1": "libsndfile1",
    "libportaudio.so.2": "libportaudio2",
    "libsox.so.3": "libsox3",
    "libgfortran.so.5": "libgfortran5",
    "libopenblas.so.0": "libopenblas0",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libzbar.so.0": "libzbar0",
    "libmagic.so.1": "libmagic1",
    "libgeos_c.so.1": "libgeos-c1v5",
    "libtesseract.so.5": "libtesseract5",
    "libpango-1.0.so.0": "libpango-1.0-0",
    "libcairo.so.2": "libcairo2",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libjpeg.so.62": "libjpeg62-turbo",
    "libtiff.so.6": "libtiff6",
    "libpq.so.5": "libpq5",
    "libxml2.so.2": "libxml2",
    "libxslt.so.1": "libxslt1.1",
    "libssl.so.3": "libssl3",
    "libavcodec.so.59": "libavcodec59",
    "libtbb.so.12": "libtbb12",
    "libnuma.so.1": "libnuma1",
}
"""Of Debian 12: the usual libraries → the package that has them."""
WITHOUT_LIBRARIES = {"cv2": ("opencv-python", "opencv-python-headless")}
"""Module → the package that needs system libraries, and the one that has it too and needs none."""


class Failure(NamedTuple):
    """A reason code, and a sentence for the operator. `chain` has the modules that led to it, the nearest to the fault
    first.
    """

    code: str
    reason: str
    chain: tuple[str, ...] = ()


class Cause(NamedTuple):
    """What is missing, without the modules that needed it. `verb` links it to the nearest of these."""

    code: str
    what: str
    advice: str
    verb: str = "imported by"


def explain_import(
    error: BaseException,
    entry_module: str,
    missing: tuple[str, ...] = (),
    models: Mapping[str, str] = MappingProxyType({}),
    packages: tuple[str, ...] = (),
) -> Failure:
    """Why importing the entrypoint's module failed. `missing`: all libraries that the failed extension lacks.
    `packages`: all that the plugin's code lacks.
    """
    root, chain = find_cause(error, entry_module, missing)
    if root is not None and root.code == PACKAGE_MISSING and len(packages) > 1:
        root = Cause(
            PACKAGE_MISSING, f"the packages {_and(packages)} are not installed", "add them to requirements.txt"
        )
    root = root or _model_cause(error, models, entry_module)
    if root is not None:
        return _failure(root, chain)
    where = f" (while importing {_chain_text(chain, '')})" if len(chain) > 1 else ""
    reading = being_read(error, models, entry_module.partition(".")[0])
    happened = f"importing {entry_module} {_raised(error)}{_location(error)}{where}{reading}"
    return Failure(IMPORT_ERROR, f"{happened}; correct the plugin's code", chain)


def explain_call(
    error: BaseException,
    code: str,
    what: str,
    entry_module: str,
    models: Mapping[str, str],
    *,
    missing: tuple[str, ...] = (),
) -> Failure:
    """Why `what` (e.g. `Reader.validate()`) failed: with `code`, unless a model, a package or CUDA is the cause."""
    root, chain = find_cause(error, entry_module, missing)
    root = root or _model_cause(error, models, entry_module)
    if root is not None and root.code != IMPORT_ERROR:
        return _failure(root, chain)
    reading = being_read(error, models, entry_module.partition(".")[0])
    happened = f"{what} {_raised(error)}{_location(error)}{_led_by(error, entry_module)}{reading}"
    return Failure(code, f"{happened}; correct the plugin or what it loads", chain)


def explain_gpu_memory(error: BaseException, what: str, entry_module: str) -> Failure:
    """Why `what` (e.g. `Reader.validate()`) failed for want of memory on the GPU."""
    happened = f"{what} ran out of memory on the GPU: {_raised(error)}{_location(error)}{_led_by(error, entry_module)}"
    return Failure(GPU_OUT_OF_MEMORY, f"{happened}; use less of it, or declare what is needed as `gpu.memory`")


def find_cause(
    error: BaseException, entry_module: str, missing: tuple[str, ...] = ()
) -> tuple[Cause | None, tuple[str, ...]]:
    """The first exception, from the outermost inwards, that names what is missing, and the chain down to it."""
    chain: list[str] = []
    for link in links(error):
        modules = _modules(link.__traceback__)
        if modules and modules[0] in chain:
            del chain[chain.index(modules[0]) :]  # the cause's traceback starts where it was caught
        chain += modules
        cause = _cause(link, entry_module, missing)
        if cause is not None:
            return cause, _nearest_first(chain)
    return None, _nearest_first(_modules(error.__traceback__))


def _cause(error: BaseException, entry_module: str, missing: tuple[str, ...]) -> Cause | None:
    text = message_of(error)
    library = re.search(MISSING_LIBRARY, text) if isinstance(error, (ImportError, OSError)) else None
    if library is not None:
        return _library_cause(library[1], missing, (error.name or "") if isinstance(error, ImportError) else "")
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _module_cause(error.name, entry_module)
    if re.search(CUDA_MESSAGE, text) and "out of memory" not in text:
        return Cause(
            CUDA_UNAVAILABLE,
            f"CUDA does not work in the container: {_first_line(text)}",
            "compare the GPU driver of the host with the CUDA version of the image and of the packages",
            "found by",
        )
    return None


def _library_cause(library: str, missing: tuple[str, ...], module: str) -> Cause:
    if re.match(CUDA_LIBRARY, library):
        advice = "use `image: cuda`, or packages built for the CUDA version of the image"
        return Cause(CUDA_UNAVAILABLE, f"{library} is missing", advice, "needed by")
    libraries = tuple(dict.fromkeys((library, *missing)))
    one = len(libraries) == 1
    packages = tuple(dict.fromkeys(DEBIAN_PACKAGES[name] for name in libraries if name in DEBIAN_PACKAGES))
    unknown = [name for name in libraries if name not in DEBIAN_PACKAGES]
    named = [*packages, *([f"the system package that has {'it' if one else ', '.join(unknown)}"] if unknown else [])]
    advice = f"add {_and(named)} to `system_packages` in plugin.yaml"
    other = WITHOUT_LIBRARIES.get(module.partition(".")[0])
    if other is not None:
        # Where a package requires the one, pip would install both.
        advice += f"; if requirements.txt itself names {other[0]}, {other[1]} in its stead needs none"
    what = f"the system library {library} is missing" if one else f"the system libraries {_and(libraries)} are missing"
    return Cause(PACKAGE_MISSING, what, advice, "needed by")


def _and(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _module_cause(name: str, entry_module: str) -> Cause:
    own = entry_module.partition(".")[0]
    if name == entry_module or entry_module.startswith(f"{name}."):
        advice = "check `entrypoint` in plugin.yaml and the plugin's folder"
        return Cause(IMPORT_ERROR, f"the entrypoint's module {name} does not exist", advice)
    top = name.partition(".")[0]
    if top == own:
        return Cause(IMPORT_ERROR, f"the plugin's own module {name} does not exist", "correct the import")
    if top != name and top in sys.modules:
        advice = f"check the version of {top} in requirements.txt"
        return Cause(PACKAGE_MISSING, f"the installed package {top} has no module {name}", advice)
    return Cause(PACKAGE_MISSING, f"the package {name} is not installed", "add it to requirements.txt")


def _model_cause(error: BaseException, models: Mapping[str, str], entry_module: str) -> Cause | None:
    fault = find_model_fault(error, models)
    if fault is None:
        return None
    line = _own_line(error, entry_module)
    return Cause(
        MODEL_MISSING if fault.missing else MODEL_CORRUPT,
        f"{fault.what}, at {line}" if line else fault.what,
        fault.advice,
        fault.verb,
    )


def _failure(cause: Cause, chain: tuple[str, ...]) -> Failure:
    who = _chain_text(chain, f"{cause.verb} ")
    return Failure(cause.code, f"{cause.what}{f' ({who})' if who else ''}; {cause.advice}", chain)


def _chain_text(chain: tuple[str, ...], verb: str) -> str:
    if not chain:
        return ""
    shown = list(chain)
    if len(shown) > MAX_CHAIN:
        shown = [*shown[: MAX_CHAIN - 2], "…", *shown[-1:]]
    return verb + ", imported by ".join(shown)


def _modules(traceback: TracebackType | None) -> list[str]:
    """The modules whose code the traceback passes, outermost first, without Python's own and the runtime's."""
    modules: list[str] = []
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        top = name.partition(".")[0]
        own = top in sys.stdlib_module_names or top in {"plugin_runtime", "__main__", ""}
        if not own and (not modules or modules[-1] != name):
            modules.append(name)
        traceback = traceback.tb_next
    return modules


def _nearest_first(modules: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reversed(modules)))


def _raised(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = message_of(error)
    return f"raised {type(error).__name__}{f': {text}' if text else ''}"


def _location(error: BaseException) -> str:
    """` (module line 12)` of the innermost frame that is not Python's own."""
    if isinstance(error, SyntaxError):
        return ""  # its message says file and line
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "plugin_runtime", "__main__"}:
            found = f" ({name} line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


def _led_by(error: BaseException, entry_module: str) -> str:
    """`, at cells/plugin.py:13`: the plugin's own line that led to a fault in a library; empty for its own fault."""
    innermost = ""
    traceback = error.__traceback__
    while traceback is not None:
        top = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if top not in {*sys.stdlib_module_names, "plugin_runtime", "__main__"}:
            innermost = top
        traceback = traceback.tb_next
    line = _own_line(error, entry_module)
    return f", at {line}" if line and innermost != entry_module.partition(".")[0] else ""


def _own_line(error: BaseException, entry_module: str) -> str:
    """`cells/plugin.py:13`: the plugin's own line that the exception passed last; empty where it passed none."""
    own, found = entry_module.partition(".")[0], ""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == own:
            file = frame.f_code.co_filename.split("/")
            found = f"{'/'.join(file[file.index(own) :] if own in file else file[-1:])}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
