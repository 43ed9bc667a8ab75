"""The explanations of all reason codes."""

from typing import Final

from orchestrator.lifecycle.explanations.explanation import Explanation
from orchestrator.lifecycle.reasons import ReasonCode

_GPU_PAGE: Final = "orchestrator/gpus/README.md"
_RUN_ENDS: Final = {ReasonCode.TIMEOUT: 504}
"""Statuses of the run by which a plugin comes to be FAILED, where it is not 502."""


def _of_code(
    code: ReasonCode, meaning: str, remedy: str, happens: str, *, page: str = "", test: str = "", in_a_run: bool = False
) -> Explanation:
    return Explanation(
        name=code.value,
        kind="reason code",
        meaning=meaning,
        remedy=remedy,
        test=test or f'with orchestrator.fault("detector", "{code}"): ...',
        happens=happens,
        state=code.final_state,
        status=_RUN_ENDS.get(code, 502) if in_a_run else 503,
        page=page,
    )


CODES: Final = (
    _of_code(
        ReasonCode.GPU_NOT_FOUND,
        "this host has no NVIDIA GPU",
        "use a host with a GPU, or pass one through to this machine",
        "the simulated host has neither GPU nor driver while the plugin starts",
        page=_GPU_PAGE,
    ),
    _of_code(
        ReasonCode.GPU_DRIVER_ERROR,
        "hardware or library exist, the driver is broken, mismatched or hangs",
        "reload or reinstall the driver; the kernel's log has `NVRM` lines",
        "the simulated host has GPUs whose kernel module is not loaded while the plugin starts",
        page=_GPU_PAGE,
    ),
    _of_code(
        ReasonCode.GPU_RUNTIME_MISSING,
        "the engine cannot hand out GPUs, in none of its ways",
        "what the reason says: install the NVIDIA container toolkit, generate its CDI spec anew, …",
        "the engine refuses the plugin's container in the words of a Docker without the toolkit",
        page=f"{_GPU_PAGE}#engines",
    ),
    _of_code(
        ReasonCode.CUDA_UNAVAILABLE,
        "the container has a GPU, CUDA does not work in it",
        "compare the driver with the CUDA version of the packages; use `image: cuda`",
        "the import of the plugin's module fails for want of libcudart.so.12",
        page=_GPU_PAGE,
    ),
    _of_code(
        ReasonCode.GPU_BUSY,
        "every suitable GPU is leased, by plugins that may not be parked or by its own instances",
        "stop a plugin that has one, or request less under `gpu`",
        "a plugin `gpu-holder`, which may not be parked, is started first and leases all simulated GPUs",
        page=f"{_GPU_PAGE}#more-plugins-than-gpus",
    ),
    _of_code(
        ReasonCode.GPU_LOST,
        "the GPU failed, was removed, or was taken from the container while the plugin ran",
        "reset the GPU or reboot; the kernel's log has its Xid",
        "the driver of the simulated host reports the plugin's GPU as lost; with `after`, `tool` or `at` the tool "
        "fails first, and its container has no device nodes any more",
        page=_GPU_PAGE,
    ),
    _of_code(
        ReasonCode.PACKAGE_MISSING,
        "a Python package or a system library is not in the image",
        "add it to `requirements.txt` or `system_packages`",
        "the plugin's module imports a package that is not installed",
    ),
    _of_code(
        ReasonCode.MODEL_MISSING,
        "a model, or a file that belongs to it, does not exist or may not be read",
        "put it where the reason says, or run the command that it names; `orchestrator doctor` shows the whole path",
        "a model without a file is added to the manifest of the orchestrator's copy of the plugin",
        page="plugins/README.md#models",
    ),
    _of_code(
        ReasonCode.MODEL_CORRUPT,
        "a file of a model cannot be right",
        "fetch it again",
        "a model whose file is all zeros is added to the orchestrator's copy of the plugin",
        page="plugins/README.md#models",
    ),
    _of_code(
        ReasonCode.SECRET_MISSING,
        "a secret is not provided or cannot be read",
        "write it to where the reason says; `orchestrator doctor` shows the whole path",
        "a secret that nobody provides is added to the manifest of the orchestrator's copy of the plugin",
        page="orchestrator/access/README.md#secrets-of-plugins",
    ),
    _of_code(
        ReasonCode.IMAGE_MISSING,
        "the engine does not have the image",
        "build or pull it",
        "the manifest of the orchestrator's copy of the plugin names an image of a registry that does not answer",
    ),
    _of_code(
        ReasonCode.LIMITS_UNSUPPORTED,
        "the engine cannot hold the plugin to its limits",
        "do what the reason names",
        "the plugin's container is made without its limit on processes",
        page="orchestrator/cli/README.md#limits-that-the-engine-cannot-hold",
    ),
    _of_code(
        ReasonCode.ENGINE_UNREACHABLE,
        "the container engine did not answer",
        "start the engine, or correct `DOCKER_HOST` or docker's context",
        "the engine gives no answer while the plugin's container is made",
    ),
    _of_code(
        ReasonCode.PARKED,
        "nobody called it for `idle.after`, an operator parked it, another plugin needed its GPU, no GPU was free and "
        "nobody waited for it, or it has not been called yet (`ORCHESTRATOR_PARKED`)",
        "nothing is wrong: its next run starts it",
        "the plugin is parked by the API; its next run starts it",
        page="plugins/running.md#instances",
    ),
    _of_code(
        ReasonCode.STOPPED,
        "an operator stopped it, or cancelled a run that did not end",
        "nothing is wrong: `start` it",
        "the plugin is stopped by the API",
    ),
    _of_code(
        ReasonCode.MANIFEST_INVALID,
        "plugin.yaml is wrong",
        "correct the field that the reason names",
        "an unknown field is added to the manifest of the orchestrator's copy of the plugin",
        page="plugins/README.md#manifest",
    ),
    _of_code(
        ReasonCode.BUILD_FAILED,
        "the image could not be built, or the code that the entrypoint imports does not compile",
        "read the build's output in `health`",
        "the entrypoint's module in the orchestrator's copy of the plugin is no Python any more",
    ),
    _of_code(
        ReasonCode.IMPORT_ERROR,
        "importing the plugin's code raised",
        "read the traceback in `health`; correct the code",
        "the import of the plugin's module raises",
    ),
    _of_code(
        ReasonCode.INIT_ERROR,
        "`__init__` raised, or the container could not be started",
        "the reason says which",
        "`__init__` raises",
    ),
    _of_code(
        ReasonCode.VALIDATE_MISSING,
        "the class has no `validate()`",
        "add one",
        "the class has no `validate()` any more",
    ),
    _of_code(ReasonCode.VALIDATE_ERROR, "`validate()` raised", "read the traceback in `health`", "`validate()` raises"),
    _of_code(
        ReasonCode.STARTUP_TIMEOUT,
        "not ready within `startup_timeout`",
        "`health` shows where it hung; make it faster or raise the limit",
        "`__init__` never returns, and the plugin has two seconds (`limit=`) to start",
    ),
    _of_code(
        ReasonCode.TOOL_ERROR,
        "a tool raised",
        "read the traceback in `health`; or `failure_policy: tolerant`",
        "the tool raises",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.INVALID_OUTPUT,
        "a tool returned what is not JSON, a file that cannot be given, or too much; or a sample call of an update had "
        "another answer than `expect` says",
        "return plain values; `ORCHESTRATOR_MAX_RESULT` and `limits.output` are the bounds",
        "the tool returns an object that is no JSON",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.TIMEOUT,
        "a run took longer than `limits.timeout`",
        "`health` has the stacks of where it hung",
        "the tool never returns; `limit=` shortens the plugin's own limit for the test",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.OUT_OF_MEMORY,
        "the kernel killed a process over `limits.memory`",
        "use less, or raise the limit",
        "the tool takes memory until the kernel kills the worker",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.GPU_OUT_OF_MEMORY,
        "a tool or the start asked for more memory than its GPU had",
        "the reason says whose memory it was: use less, raise `gpu.memory`, or do so for the neighbour",
        "the tool raises what torch raises when its GPU has no more memory",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.CRASHED,
        "died by a signal such as SIGSEGV: a fault in native code",
        "the log has the Python stack of that moment",
        "the tool reads address zero",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.EXITED,
        "the process exited by itself",
        "find what calls `exit`; the log may say",
        "the tool ends its process with exit code 3",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.KILLED,
        "a SIGKILL from outside, not by the orchestrator and not for memory",
        "find who did it",
        "the tool sends SIGKILL to its own process",
        in_a_run=True,
    ),
    _of_code(
        ReasonCode.UNRESPONSIVE,
        "it runs and answers nothing, such as a deadlock",
        "`health` has the stacks",
        "the tool returns, and leaves a thread that blocks for ever and holds the interpreter's lock",
    ),
    _of_code(
        ReasonCode.KILL_FAILED,
        "it ended for what its reason says first, and the engine could not stop the container; once that is gone, the "
        "code is the cause's",
        "`docker rm --force` it, look at the engine",
        "the tool raises, and the engine refuses to stop, kill or remove the container until the end of the block",
        in_a_run=True,
    ),
)
