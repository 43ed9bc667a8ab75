"""An error for want of a GPU's memory is recognised in the words of each library, and nothing else is taken for one."""

import pytest
from plugin_runtime.tools.gpu_memory import ran_out_of_gpu_memory
from plugin_runtime.worker.execution import refusal_of


def library_error(name, module, text, base=RuntimeError):
    """An error of a class that is not installed here."""
    return type(name, (base,), {"__module__": module})(text)


TORCH = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.89 GiB."
OUT_OF_MEMORY = [
    library_error("OutOfMemoryError", "torch", TORCH),
    library_error("OutOfMemoryError", "torch.cuda", "Allocation on device"),
    RuntimeError(TORCH),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    library_error(
        "RuntimeException",
        "onnxruntime.capi.onnxruntime_pybind11_state",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. CUDA "
        "failure 2: out of memory ; GPU=0 ; hostname=plugin ; expr=cudaMalloc((void**)&p, size);",
    ),
    library_error(
        "OutOfMemoryError",
        "cupy.cuda.memory",
        "Out of memory allocating 8,589,934,592 bytes (allocated so far: 0 bytes).",
        MemoryError,
    ),
    library_error("CUDARuntimeError", "cupy_backends.cuda.api.runtime", "cudaErrorMemoryAllocation: out of memory"),
    library_error(
        "ResourceExhaustedError",
        "tensorflow.python.framework.errors_impl",
        "{{function_node x}} OOM when allocating tensor with shape[64,3,4096] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:Conv2D]",
        Exception,
    ),
    library_error("CudaAPIError", "numba.cuda", "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),
    library_error("MemoryError", "pycuda._driver", "cuMemAlloc failed: out of memory", MemoryError),
    MemoryError("std::bad_alloc: out_of_memory: CUDA error at: /rmm/mr: cudaErrorMemoryAllocation out of memory"),
    RuntimeError("CUDA failed with error out of memory"),
    RuntimeError(
        "NCCL error: ncclUnhandledCudaError: Call to CUDA failed. Last error:\nCuda failure 2 'out of memory'"
    ),
    RuntimeError("Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated: 7.1 GiB"),
    RuntimeError("llama_model_load: error loading model: unable to allocate CUDA0 buffer"),
    RuntimeError("OpenCV(4.10) error: (-217:Gpu API call) out of memory in function 'allocate'"),
    RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2.0GB memory on GPU 0"),
]
WHERE_THERE_IS_A_GPU = [
    library_error(
        "RuntimeException",
        "onnxruntime.capi.onnxruntime_pybind11_state",
        "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for "
        "requested buffer of size 1073741824",
    ),
    library_error(
        "XlaRuntimeError", "jaxlib.xla_extension", "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"
    ),
    library_error("ResourceExhaustedError", "tensorflow", "failed to allocate memory [Op:AddV2]", Exception),
    library_error(
        "XlaRuntimeError",
        "jaxlib.xla_extension",
        "INTERNAL: Failed to allocate 4096 bytes for new constant: RESOURCE_EXHAUSTED",
    ),
    ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
    ValueError(
        "Free memory on device (10.2/23.7 GiB) on startup is less than desired GPU memory utilization (0.9, 21.3 GiB)"
    ),
]
OTHERS = [
    MemoryError(),
    MemoryError("Unable to allocate 8.00 GiB for an array with shape (1073741824,) and data type float64"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA driver version is insufficient for CUDA runtime version"),
    OSError(12, "Cannot allocate memory"),
    library_error("ResourceExhaustedError", "grpc", "quota of requests", Exception),
    library_error("OutOfMemoryError", "my_plugin.cards", "no more cards in memory"),
    ValueError("the picture has no CUDA in it; out of memories"),
    library_error(
        "ResourceExhaustedError",
        "tensorflow",
        "OOM when allocating tensor with shape[1] on /job:localhost/replica:0/task:0/device:CPU:0 by allocator cpu",
        Exception,
    ),
]


def text(error):
    return f"{type(error).__name__} {str(error)[:40]}"


@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=text)
def test_it_is_recognised(error, has_gpu):
    assert ran_out_of_gpu_memory(error, has_gpu=has_gpu)


@pytest.mark.parametrize("error", WHERE_THERE_IS_A_GPU, ids=text)
def test_words_for_either_memory_are_of_the_gpu_where_there_is_one(error):
    """The memory of a container runs out by the kernel, not by an error."""
    assert ran_out_of_gpu_memory(error, has_gpu=True)
    assert not ran_out_of_gpu_memory(error, has_gpu=False)


@pytest.mark.parametrize("error", OTHERS, ids=text)
def test_other_errors_are_what_they_are(error):
    assert not ran_out_of_gpu_memory(error, has_gpu=False)


@pytest.mark.parametrize("error", OTHERS, ids=text)
def test_the_machines_memory_is_not_the_gpus(error):
    """Also beside a GPU."""
    assert not ran_out_of_gpu_memory(error, has_gpu=True)


def raised_from(cause):
    try:
        try:
            raise cause
        except RuntimeError as error:
            raise ValueError("the picture cannot be read") from error
    except ValueError as error:
        return error


def raised_while(cause):
    try:
        try:
            raise cause
        except RuntimeError:
            raise KeyError("model")  # noqa: B904 - as it happens: the error is only its context
    except KeyError as error:
        return error


@pytest.mark.parametrize(
    "wrap", [raised_from, raised_while, lambda cause: ExceptionGroup("tasks", [ValueError(), cause])]
)
def test_it_is_found_behind_other_errors(wrap):
    """Wrapped by a library or by the plugin, or in a group of tasks."""
    refusal = refusal_of(wrap(RuntimeError(TORCH)))
    assert (refusal.kind, refusal.reason_code) == ("exception", "GPU_OUT_OF_MEMORY")


def test_another_exception_has_no_code():
    assert refusal_of(ValueError("bad")).reason_code is None
