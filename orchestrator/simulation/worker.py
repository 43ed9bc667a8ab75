"""In a plugin's container in place of `python -m plugin_runtime`: the runtime as it is, whose worker carries faults.

A file by itself: it is copied into the instance's folder, beside `armed.json`, which has the faults at any time.
"""

# As a program it is the module `__main__`, whose frames no reason names.

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
from typing import Any

ARMED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "armed.json")  # noqa: PTH100, PTH118, PTH120 - pathlib costs the supervisor a megabyte
STAND_IN = "PLUGIN_STANDS_IN"
"""Variable of a plugin whose tools take any arguments."""
HOLD = {"simulated_hold": True}
"""The arguments of a call that only takes a place."""
CHUNK_BYTES = 8 * 1024 * 1024
WHY = "a test asked for this fault"
LOST = "CUDA error: the GPU is lost"
MISSING_CUDA = "libcudart.so.12: cannot open shared object file: No such file or directory"
IN_IMPORT = {
    "IMPORT_ERROR": f"raise ImportError({WHY!r})",
    "PACKAGE_MISSING": "import package_that_a_test_wants_to_be_missing",
    "CUDA_UNAVAILABLE": f"raise ImportError({MISSING_CUDA!r})",
}
"""Code → what the plugin's module does in place of its own code."""

_counts: dict[str, int] = {}
_lock = threading.Lock()


def main() -> int:
    """As the runtime's own."""
    from plugin_runtime import __main__ as runtime  # noqa: PLC0415 - see the head of the runtime's

    run_worker = runtime.run_worker

    def run_with_faults(*args: Any, **kwargs: Any) -> None:
        try:
            carry_faults()
        except BaseException:  # noqa: BLE001 - a forked child must not run on into its parent's code
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        run_worker(*args, **kwargs)

    runtime.run_worker = run_with_faults  # type: ignore[assignment]
    return runtime.main()


def armed() -> list[dict[str, Any]]:
    """All faults of the plugin, as they are now."""
    with contextlib.suppress(OSError, ValueError), open(ARMED, encoding="utf-8") as file:  # noqa: PTH123 - as above
        return list(json.load(file))
    return []


def carry_faults() -> None:
    """Change the worker: its start, and what its tools do."""
    load: Any = importlib.import_module  # in the worker alone, like all that follows
    loading, gpu_probe = load("plugin_runtime.startup.loading"), load("plugin_runtime.startup.gpu_probe")
    process, tool_service = load("plugin_runtime.worker.process"), load("plugin_runtime.worker.tool_service")
    start_plugin, gpus = loading.start_plugin, os.environ.get("PLUGIN_SIMULATED_GPUS")

    def start(environment: Any, report: Any, advice: Any) -> Any:
        break_start(loading, {fault["code"] for fault in armed()})
        started = start_plugin(environment, report, advice)
        tools = {name: tool._replace(call=faulty(name, tool.call)) for name, tool in started.tools.items()}
        return started._replace(tools=tools)

    process.start_plugin = start
    if gpus:
        gpu_probe.check_gpu = lambda: ([loading.Check("gpu", ok=True, detail=f"simulated: {gpus}")], None)
        process.find_gpu_loss = lambda _: loss_after
    read = any_arguments if os.environ.get(STAND_IN) else tool_service.read_arguments
    tool_service.read_arguments = arguments_or_hold(read)


def arguments_or_hold(read_arguments: Any) -> Any:
    """How arguments are read: those of a call that only takes a place are none of the tool's."""

    def read(tool: Any, head: Any, body: Any, folder: Any) -> Any:
        if tool.batch is None and any(fault["code"] == "HOLD" for fault in armed()):
            content = b"".join(body)
            with contextlib.suppress(ValueError):
                if json.loads(content) == HOLD:
                    return dict(HOLD)
            body = iter([content])
        return read_arguments(tool, head, body, folder)

    return read


def hold() -> None:
    """Take a place until the test gives it back, or the run is cancelled."""
    from plugin_runtime import cancelled  # noqa: PLC0415 - in the worker alone

    while any(fault["code"] == "HOLD" for fault in armed()) and not cancelled():
        time.sleep(0.02)


def any_arguments(_tool: Any, _head: Any, body: Any, _folder: Any) -> dict[str, Any]:
    """Of a plugin that stands in for another: read, and dropped."""
    for _ in body:
        pass
    return {}


def loss_after(error: BaseException) -> Any:
    """The lost GPU that led to an error."""
    from plugin_runtime.startup.gpu_findings import NodeFacts, judge_loss  # noqa: PLC0415 - as above

    return judge_loss(NodeFacts(()), ("/dev/nvidia0",)) if LOST in str(error) else None


# The start


def break_start(loading: Any, codes: set[str]) -> None:
    """Have the steps of `plugin_runtime.startup.loading` meet the faults with these codes."""
    for code in IN_IMPORT.keys() & codes:
        loading.importlib = _Importing(IN_IMPORT[code])
    members: dict[str, Any] = {}
    if "INIT_ERROR" in codes:
        members["__init__"] = _raise
    if "STARTUP_TIMEOUT" in codes:
        members["__init__"] = _hang
    if "VALIDATE_MISSING" in codes:
        members["validate"] = None
    if "VALIDATE_ERROR" in codes:
        members["validate"] = _raise
    if not members:
        return
    import_class = loading.import_class

    def import_broken(start: Any) -> Any:
        found = import_class(start)
        return type(found)(found.__name__, (found,), {"__module__": found.__module__, **members})

    loading.import_class = import_broken


class _Importing:
    """In place of importlib. `code`: what the module does."""

    def __init__(self, code: str) -> None:
        self._code = compile(code, "plugin.py", "exec")

    def import_module(self, name: str) -> None:
        exec(self._code, {"__name__": name})  # noqa: S102 - one of the texts above, under the module's own name


# The calls


def faulty(tool: str, call: Any) -> Any:
    """The tool, with whatever is armed when it is called."""

    def step(*args: Any, **kwargs: Any) -> Any:
        if kwargs == HOLD:
            return hold()
        for fault in armed():
            if not _meets(fault, tool):
                continue
            if fault["code"] == "SLOW":
                time.sleep(fault["delay"])
            elif fault["at"] is None:
                return happen(fault["code"], lambda: call(*args, **kwargs))
            else:
                return broken_off(call(*args, **kwargs), fault)
        return call(*args, **kwargs)

    return step


def _meets(fault: dict[str, Any], tool: str) -> bool:
    """Whether this call of the tool is the fault's; counts it."""
    if fault["code"] not in HAPPENS or fault["tool"] not in (None, tool):
        return False
    with _lock:
        count = _counts[fault["id"]] = _counts.get(fault["id"], 0) + 1
    after: int = fault["after"]
    return count > after


def broken_off(stream: Any, fault: dict[str, Any]) -> Any:
    """A stream in which the fault happens after so many items; a result that is none meets it at once."""
    kind = type(stream)
    if hasattr(kind, "__anext__"):
        return _broken_off_async(stream, fault)
    if hasattr(kind, "__next__"):
        return _broken_off(stream, fault)
    return happen(fault["code"], lambda: stream)


def _broken_off(stream: Any, fault: dict[str, Any]) -> Any:
    left = fault["at"]
    while left:
        try:
            item = next(stream)
        except StopIteration:  # shorter than that
            return
        left -= _is_item(item)
        yield item
    last = happen(fault["code"], lambda: None)
    if last is not None:
        yield last
    yield from stream


async def _broken_off_async(stream: Any, fault: dict[str, Any]) -> Any:
    left = fault["at"]
    while left:
        try:
            item = await stream.__anext__()
        except StopAsyncIteration:
            return
        left -= _is_item(item)
        yield item
    last = happen(fault["code"], lambda: None)
    if last is not None:
        yield last
    async for item in stream:
        yield item


def _is_item(item: Any) -> bool:
    kind: str = type(item).__name__
    return kind != "Progress"


def happen(code: str, goes_on: Any) -> Any:
    """Have the fault happen. `goes_on`: the call, for those after which the tool returns."""
    return HAPPENS[code](goes_on)


def _raise(*_: Any) -> Any:
    raise RuntimeError(WHY)


def _refuse(_: Any) -> Any:
    from plugin_runtime import InvalidInput  # noqa: PLC0415 - as above

    raise InvalidInput(WHY)


def _lose_gpu(_: Any) -> Any:
    raise RuntimeError(LOST)


def _exhaust_gpu(_: Any) -> Any:
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.89 GiB")


def _hang(*_: Any) -> Any:
    while True:
        time.sleep(3600)


def _take_memory(_: Any) -> Any:
    chunks = []
    while True:
        chunks.append(b"x" * CHUNK_BYTES)


def _crash(_: Any) -> Any:
    return ctypes.string_at(0)


def _exit(_: Any) -> Any:
    os._exit(3)


def _kill(_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    return _hang()  # until it arrives


def _deadlock(goes_on: Any) -> Any:
    threading.Thread(target=_lock_twice, daemon=True).start()
    return goes_on()


def _lock_twice() -> None:
    time.sleep(0.2)
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)  # which holds the interpreter's lock
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


HAPPENS = {
    "SLOW": _raise,
    "InvalidInput": _refuse,
    "TOOL_ERROR": _raise,
    "KILL_FAILED": _raise,
    "INVALID_OUTPUT": lambda _: object(),
    "TIMEOUT": _hang,
    "OUT_OF_MEMORY": _take_memory,
    "GPU_OUT_OF_MEMORY": _exhaust_gpu,
    "GPU_LOST": _lose_gpu,
    "CRASHED": _crash,
    "EXITED": _exit,
    "KILLED": _kill,
    "UNRESPONSIVE": _deadlock,
}
"""Code → what happens in the call."""


if __name__ == "__main__":
    sys.exit(main())
