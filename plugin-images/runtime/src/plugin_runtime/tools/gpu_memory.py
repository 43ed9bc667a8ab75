"""Whether an error means that a GPU had no more memory, whichever library says so. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from plugin_runtime.tools.plugin_errors import links, message_of

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU_OUT_OF_MEMORY = "GPU_OUT_OF_MEMORY"

# In the words of CUDA, NCCL, torch, ONNX Runtime, CuPy, Numba, RMM, OpenCV, Paddle, CTranslate2, TensorFlow, llama.cpp.
SURE = (
    r"\b(CUDA|HIP|XPU|MPS backend)\b[\w ():,'-]{0,60}\bout of memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|hipErrorOutOfMemory"
    r"|\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|CURAND)_(STATUS_)?ALLOC(ATION)?_FAILED"
    r"|out of memory error on GPU|Gpu API call\) out of memory|\bcu(da)?(Mem|Malloc)\w* failed: out of memory"
    r"|OOM when allocating tensor.{0,400}(device:GPU|GPU_\d+_bfc)|\ballocate CUDA\d* buffer"
    r"|Allocation on device \d* ?would exceed allowed memory"
)
# What the same libraries say of the machine's memory too. That of a container does not run out by an error, but by the
# kernel: where there is a GPU, it is the GPU's.
WITH_A_GPU = (
    r"BFCArena.{0,400}Failed to allocate memory|Failed to allocate memory for requested buffer"
    r"|Available memory of \d+ is smaller than requested bytes"
    r"|RESOURCE_EXHAUSTED: .{0,200}([Oo]ut of memory|OOM|[Ff]ailed to allocate)|failed to allocate memory \[Op:"
    r"|OutOfMemory \(|Out of memory allocating [\d,]+ bytes|[Ff]ailed to allocate \d+ bytes.{0,200}RESOURCE_EXHAUSTED"
    # vLLM's
    r"|No available memory for the cache blocks|is less than desired GPU memory utilization"
)
GPU_MODULES = ("torch", "cupy", "cupy_backends")
"""Whose `OutOfMemoryError` is of a GPU alone."""


def ran_out_of_gpu_memory(error: BaseException, *, has_gpu: bool) -> bool:
    """Whether the error, or what it was raised from, is of a GPU's memory. `has_gpu`: the container has one."""
    return any(_is_of_gpu_memory(link, has_gpu=has_gpu) for link in _all_links(error))


def _all_links(error: BaseException) -> Iterator[BaseException]:
    for link in links(error):
        yield link
        if isinstance(link, BaseExceptionGroup):
            for each in link.exceptions:
                yield from _all_links(each)


def _is_of_gpu_memory(error: BaseException, *, has_gpu: bool) -> bool:
    kind = type(error)
    if kind.__name__ == "OutOfMemoryError" and str(kind.__module__).partition(".")[0] in GPU_MODULES:
        return True
    text = f"{kind.__name__}: {message_of(error)}"
    if re.search(SURE, text, re.DOTALL | re.IGNORECASE):
        return True
    return has_gpu and type(error) is not MemoryError and re.search(WITH_A_GPU, text, re.DOTALL) is not None
