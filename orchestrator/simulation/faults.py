"""Faults that a test asks for: where each is made to happen, and which cannot. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

from orchestrator.errors import OrchestratorError
from orchestrator.lifecycle import ReasonCode

SLOW: Final = "SLOW"
"""A call takes longer."""
HOLD: Final = "HOLD"
"""Calls with the argument `HOLD_ARGUMENT` alone do not end."""
INVALID_INPUT: Final = "InvalidInput"
HOLD_ARGUMENT: Final = "simulated_hold"


class Place(StrEnum):
    """Where a fault is made to happen."""

    CALL = "call"
    """In a call of a tool, by the worker."""
    START = "start"
    """In the plugin's start, by the worker."""
    FOLDER = "folder"
    """In the orchestrator's copy of the plugin's folder."""
    ENGINE = "engine"
    """What the engine answers for the plugin's container."""
    HOST = "host"
    """The simulated GPUs, while the plugin starts."""
    LOSS = "loss"
    """The simulated GPUs, while the plugin has them."""
    HOLDER = "holder"
    """Another plugin, which has all GPUs."""
    COMMAND = "command"
    """A command of the API, which the test's side sends."""


PLACES: Final[Mapping[str, Place]] = {
    SLOW: Place.CALL,
    HOLD: Place.CALL,
    INVALID_INPUT: Place.CALL,
    ReasonCode.TOOL_ERROR: Place.CALL,
    ReasonCode.INVALID_OUTPUT: Place.CALL,
    ReasonCode.TIMEOUT: Place.CALL,
    ReasonCode.OUT_OF_MEMORY: Place.CALL,
    ReasonCode.GPU_OUT_OF_MEMORY: Place.CALL,
    ReasonCode.CRASHED: Place.CALL,
    ReasonCode.EXITED: Place.CALL,
    ReasonCode.KILLED: Place.CALL,
    ReasonCode.UNRESPONSIVE: Place.CALL,
    ReasonCode.KILL_FAILED: Place.CALL,
    ReasonCode.PACKAGE_MISSING: Place.START,
    ReasonCode.CUDA_UNAVAILABLE: Place.START,
    ReasonCode.IMPORT_ERROR: Place.START,
    ReasonCode.INIT_ERROR: Place.START,
    ReasonCode.VALIDATE_MISSING: Place.START,
    ReasonCode.VALIDATE_ERROR: Place.START,
    ReasonCode.STARTUP_TIMEOUT: Place.START,
    ReasonCode.MODEL_MISSING: Place.FOLDER,
    ReasonCode.MODEL_CORRUPT: Place.FOLDER,
    ReasonCode.SECRET_MISSING: Place.FOLDER,
    ReasonCode.IMAGE_MISSING: Place.FOLDER,
    ReasonCode.MANIFEST_INVALID: Place.FOLDER,
    ReasonCode.BUILD_FAILED: Place.FOLDER,
    ReasonCode.LIMITS_UNSUPPORTED: Place.ENGINE,
    ReasonCode.ENGINE_UNREACHABLE: Place.ENGINE,
    ReasonCode.GPU_RUNTIME_MISSING: Place.ENGINE,
    ReasonCode.GPU_NOT_FOUND: Place.HOST,
    ReasonCode.GPU_DRIVER_ERROR: Place.HOST,
    ReasonCode.GPU_LOST: Place.LOSS,
    ReasonCode.GPU_BUSY: Place.HOLDER,
    ReasonCode.PARKED: Place.COMMAND,
    ReasonCode.STOPPED: Place.COMMAND,
}
"""Of every reason code, and of what else can be asked for."""
NEEDS_GPU: Final = frozenset(
    {
        ReasonCode.GPU_NOT_FOUND,
        ReasonCode.GPU_DRIVER_ERROR,
        ReasonCode.GPU_RUNTIME_MISSING,
        ReasonCode.GPU_BUSY,
        ReasonCode.GPU_LOST,
    }
)
"""Codes that only a plugin with `requires_gpu` comes to."""
_LIMITED: Final[Mapping[str, str]] = {ReasonCode.TIMEOUT: "timeout", ReasonCode.STARTUP_TIMEOUT: "startup_timeout"}
"""Code → the limit that `limit` is."""
_START_SECONDS: Final = 2.0
"""`startup_timeout` where a start that never ends is asked for without a limit."""


class FaultRefusedError(OrchestratorError):
    """A fault that cannot be produced; its text says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`tool`: None for any. `after`: calls of an instance, and `at`: items of a stream, that are not affected.
    `limit`, `delay`: seconds.
    """

    plugin: str
    code: str
    tool: str | None = None
    after: int = 0
    at: int | None = None
    limit: float | None = None
    delay: float = 0.0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From JSON. Raises `FaultRefusedError`."""
        unknown = sorted(set(fields) - set(cls.__slots__))
        if unknown or not isinstance(fields.get("plugin"), str) or not isinstance(fields.get("code"), str):
            raise FaultRefusedError(f"A fault has a plugin, a code and {', '.join(cls.__slots__[2:])}; not {unknown}.")
        found = cls(**fields)
        if found.code not in PLACES:
            raise FaultRefusedError(f"{found.code!r} is no reason code; `orchestrator explain` lists all.")
        return found._checked()

    def report(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def place(self) -> Place:
        # A loss that waits for a call happens in it.
        if self.code == ReasonCode.GPU_LOST and self.in_a_call:
            return Place.CALL
        return PLACES[self.code]

    @property
    def in_a_call(self) -> bool:
        return self.tool is not None or self.after > 0 or self.at is not None

    @property
    def limit_name(self) -> str | None:
        """The limit of the manifest that `limit` replaces; None without one."""
        return _LIMITED.get(self.code) if self.limit is not None else None

    @property
    def restarts(self) -> bool:
        """Whether the plugin has to be started anew for it."""
        return self.place not in (Place.CALL, Place.COMMAND, Place.LOSS) or self.limit is not None

    def _checked(self) -> Self:
        if self.in_a_call and self.place is not Place.CALL:
            raise FaultRefusedError(f"{self.code} happens in no call: it has no `tool`, `after` or `at`.")
        if self.limit is not None and self.code not in _LIMITED:
            raise FaultRefusedError(f"{self.code} has no `limit`: only {' and '.join(_LIMITED)} have.")
        if self.code == ReasonCode.STARTUP_TIMEOUT and self.limit is None:
            return replace(self, limit=_START_SECONDS)
        return self


def require_possible(fault: Fault, *, requires_gpu: bool, gpus: bool, python: bool, tools: frozenset[str]) -> None:
    """Raise `FaultRefusedError` where the plugin cannot have this fault. `gpus`: there are simulated ones; `python`:
    its image has this project's runtime; `tools`: its tools, empty where they are not known yet.
    """
    if fault.code in NEEDS_GPU and not requires_gpu:
        raise FaultRefusedError(
            f"{fault.plugin} cannot be {fault.code}: its manifest has no `requires_gpu`. Take a plugin that has, such "
            f'as StandIn("{fault.plugin}", gpu=True).'
        )
    if fault.code in NEEDS_GPU and not gpus:
        raise FaultRefusedError(f"{fault.code} needs simulated GPUs: OrchestratorContainer(…, gpus='24GiB').")
    in_worker = fault.place in (Place.CALL, Place.START) or fault.code == ReasonCode.BUILD_FAILED
    if in_worker and not python:
        raise FaultRefusedError(
            f"{fault.plugin} cannot be {fault.code} on demand: its image does not have the Python runtime, by whose "
            "worker that happens."
        )
    if fault.tool is not None and tools and fault.tool not in tools:
        raise FaultRefusedError(f"{fault.plugin} has no tool {fault.tool}. Its tools: {', '.join(sorted(tools))}.")
