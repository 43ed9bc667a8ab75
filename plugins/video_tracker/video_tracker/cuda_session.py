"""ONNX Runtime on CUDA.

ONNX Runtime rather than torch: the image is 3 GB smaller, every model family exports to it, and tests run the same
graphs on a CPU.
"""

import ctypes
import re
from pathlib import Path

import onnxruntime as ort  # type: ignore[import-untyped]  # it has no types

PROVIDER = "CUDAExecutionProvider"
OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # trying every algorithm takes seconds at every new batch size
    "arena_extend_strategy": "kSameAsRequested",  # by default it allocates twice the memory that it needs
}


def open_on_cuda(model: Path) -> ort.InferenceSession:
    """The model, loaded on the GPU. Raises what is wrong, and never falls back to the CPU as ONNX Runtime would."""
    if PROVIDER not in ort.get_available_providers():
        raise RuntimeError("CUDA initialization: this onnxruntime was built without CUDA; require onnxruntime-gpu")
    ort.preload_dlls()
    try:
        session = ort.InferenceSession(model, providers=[(PROVIDER, OPTIONS)], enable_fallback=0)
    except RuntimeError as error:
        failure = re.search(r"CUDA failure \d+: [^;]+", str(error))  # within a page of C++ types
        if failure is None:
            raise
        raise RuntimeError(f"CUDA initialization: ONNX Runtime says {failure[0].strip()}") from error
    if PROVIDER not in session.get_providers():
        _load_provider()
        raise RuntimeError("CUDA initialization: ONNX Runtime cannot use CUDA; its log says why")
    return session


def _load_provider() -> None:
    """Raises the OSError that names the missing library; ONNX Runtime only logs it."""
    ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
