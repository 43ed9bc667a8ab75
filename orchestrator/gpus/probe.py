"""Probes of this host's GPUs. NVML and nvidia-smi run as child processes within a bound: a driver that hangs or crashes
is a result.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

from orchestrator.gpus.evidence import HardwareHints, SmiResult, read_hardware_hints
from orchestrator.gpus.host_check import HostEvidence, judge_host
from orchestrator.gpus.inventory import FaultKind, GpuDevice, GpuFault, GpuInventory, GpuProcess

FIRST_LOOK_SECONDS: Final = 60.0
"""Bound of a look at a driver that may be waking its GPUs. Without persistence mode it does that for every first
user, for seconds per GPU, and lets go of them with the last one: a child that is killed for its slowness would only
begin anew. Setting: ORCHESTRATOR_GPU_FIRST_LOOK.
"""
PROBE_SECONDS: Final = 5.0
"""Bound of a look where every GPU has persistence mode and the last look was answered within this time: a healthy
driver then takes well under 1 s. Also the patience with nvidia-smi after NVML has answered.
"""
# -P: no file of the working folder is taken for a module.
_NVML_COMMAND: Final = (sys.executable, "-P", "-m", "orchestrator.gpus.nvml")
_SMI_COMMAND: Final = ("nvidia-smi", "-L")
_MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024  # bytes retained of each output stream; the rest is read and dropped
_KILL_SECONDS: Final = 0.2  # wait for a killed child to end


class GpuHost:
    """All probes of this host and their latest inventory. A broken GPU raises nothing; it is the `problem`."""

    def __init__(
        self,
        probe: "NvmlProbe | None" = None,
        smi: "SmiProbe | None" = None,
        hints: Callable[[], HardwareHints] = read_hardware_hints,
    ) -> None:
        self._probe = probe or NvmlProbe()
        self._smi = smi or SmiProbe()
        self._hints = hints
        self._latest: GpuInventory | None = None
        self._known: GpuInventory | None = None
        """The newest in which NVML answered: the identities of GPUs that fall ill later."""
        self._check: asyncio.Task[GpuInventory] | None = None
        self._lookers = 0
        self._waiting_since: float | None = None

    @classmethod
    def bounded(cls, first_look: float) -> Self:
        """Of this host, with `first_look` seconds for a driver that wakes its GPUs."""
        return cls(NvmlProbe(bound=first_look), SmiProbe(bound=first_look))

    @property
    def latest(self) -> GpuInventory | None:
        """The newest judged inventory, without a new probe; None before the first."""
        return self._latest

    @property
    def waiting_seconds(self) -> float | None:
        """How long a look has been waiting for the driver; None where none is under way."""
        return None if self._waiting_since is None else time.monotonic() - self._waiting_since

    async def read(self) -> GpuInventory:
        """Regular probe, without nvidia-smi, within the probe's bound."""
        inventory, hints = await asyncio.gather(self._look(), asyncio.to_thread(self._hints))
        return self._store(inventory, hints, None)

    async def check(self) -> GpuInventory:
        """Full check before a start, within the probe's bound. Concurrent callers share one check."""
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._run_check(), name="gpu check")
        # Shielded: a cancelled caller must not end what others wait for.
        return await asyncio.shield(self._check)

    async def _run_check(self) -> GpuInventory:
        # At the same time: a driver without persistence mode wakes its GPUs for both at once.
        smi = asyncio.create_task(self._smi.run(), name="nvidia-smi")
        try:
            inventory, hints = await asyncio.gather(self._look(), asyncio.to_thread(self._hints))
            done, _ = await asyncio.wait({smi}, timeout=max(PROBE_SECONDS, inventory.seconds or 0))
            return self._store(inventory, hints, smi.result() if done else SmiResult("hangs"))
        finally:
            smi.cancel()

    async def _look(self) -> GpuInventory:
        self._lookers += 1
        self._waiting_since = self._waiting_since or time.monotonic()
        try:
            return await self._probe.read()
        finally:
            self._lookers -= 1
            if not self._lookers:
                self._waiting_since = None

    def _store(self, inventory: GpuInventory, hints: HardwareHints, smi: SmiResult | None) -> GpuInventory:
        inventory = inventory.with_identities_of(self._known)
        inventory = replace(inventory, problem=judge_host(HostEvidence(inventory, hints, smi)))
        # Probes overlap: an older one may end after a newer.
        if self._latest is None or inventory.probe_started >= self._latest.probe_started:
            self._latest = inventory
            self._known = inventory if inventory.fault is None else self._known
        return inventory


class NvmlProbe:
    """Reads the inventory through NVML. Concurrent callers share one probe."""

    def __init__(
        self,
        *,
        bound: float = FIRST_LOOK_SECONDS,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = _NVML_COMMAND,
    ) -> None:
        """`bound` in seconds; `environment` is added to the child's, such as an LD_LIBRARY_PATH of the driver."""
        self._bound = bound
        self._child = BoundedChild(command, bound=bound, environment=environment)
        self._probe: asyncio.Task[GpuInventory] | None = None
        self._prompt = False
        """The driver keeps its GPUs awake, and its last answer was prompt."""

    async def read(self) -> GpuInventory:
        """The inventory now, within `bound` seconds. Any failure is the inventory's `fault`."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._read(), name="nvml")
        # See `GpuHost.check`.
        return await asyncio.shield(self._probe)

    async def _read(self) -> GpuInventory:
        probe_started, observed_at = time.monotonic(), datetime.now(UTC)
        bound = min(PROBE_SECONDS, self._bound) if self._prompt else self._bound
        answer = parse_nvml(await self._child.run(bound), bound)
        seconds = time.monotonic() - probe_started
        if isinstance(answer, GpuFault):
            self._prompt = False
            return GpuInventory((), observed_at, probe_started, fault=answer)
        devices = tuple(_device(device) for device in answer.get("devices", ()))
        self._prompt = seconds < PROBE_SECONDS and bool(devices) and all(d.persistence_mode for d in devices)
        return GpuInventory(
            devices=devices,
            observed_at=observed_at,
            probe_started=probe_started,
            driver_version=answer.get("driver_version"),
            cuda_version=answer.get("cuda_version"),
            library_version=answer.get("library_version"),
            unidentified={int(index): _fault(fault) for index, fault in answer.get("unidentified", {}).items()},
            xids=answer.get("xids") or {},
            seconds=seconds,
            old_binding=answer.get("old_binding"),
            fault=_fault(answer["fault"]) if answer.get("fault") else None,
        )


class SmiProbe:
    """Runs nvidia-smi, the second opinion on the driver."""

    def __init__(
        self,
        *,
        bound: float = FIRST_LOOK_SECONDS,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = _SMI_COMMAND,
    ) -> None:
        """As `NvmlProbe`."""
        self._child = BoundedChild(command, bound=bound, environment=environment)

    async def run(self) -> SmiResult:
        """Bounded as `BoundedChild.run`; never raises."""
        return parse_smi(await self._child.run())


@dataclass(frozen=True, slots=True)
class ChildResult:
    """`hung`: not ended within the bound. `missing`: the program does not exist or may not be run."""

    outcome: Literal["ended", "hung", "missing"]
    exit_code: int | None = None  # as in subprocess: negative for a signal's number
    stdout: str = ""
    stderr: str = ""

    @property
    def signal(self) -> str | None:
        if self.exit_code is None or self.exit_code >= 0:
            return None
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"


class BoundedChild:
    """Runs one program, one child process at a time."""

    def __init__(self, command: Sequence[str], *, bound: float, environment: Mapping[str, str] | None = None) -> None:
        """`bound` in seconds; `environment` is added to our own."""
        self._command = tuple(command)
        self._bound = bound
        self._environment = environment or {}
        self._killed: asyncio.subprocess.Process | None = None

    async def run(self, bound: float | None = None) -> ChildResult:
        """Start it and wait for its end, at most `bound` + 0.2 s. Raises nothing. A cancelled call kills the child.
        `bound`: of this run, instead of the usual one.
        """
        if self._killed is not None and self._killed.returncode is None:
            # It sleeps in the driver and survived SIGKILL. Such children must not pile up.
            return ChildResult("hung")
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **self._environment},
                # A process group of its own, so that its children are killed with it.
                start_new_session=True,
            )
        except OSError:
            return ChildResult("missing")
        ended = False
        try:
            async with asyncio.timeout(self._bound if bound is None else bound):
                # Read while it runs: a full pipe would stop it.
                stdout, stderr, _ = await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
            ended = True
        except TimeoutError:
            return ChildResult("hung")
        finally:
            if not ended:
                await self._kill(process)
        return ChildResult("ended", process.returncode, stdout, stderr)

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._killed = process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                await process.wait()


def parse_nvml(result: ChildResult, bound: float) -> dict[str, Any] | GpuFault:
    """What the NVML child printed, or the fault that prevented it."""
    if result.outcome == "hung":
        return GpuFault(FaultKind.HANG, f"no answer within {bound:g} s")
    if result.outcome == "missing":
        return GpuFault(FaultKind.CRASH, "the process that queries NVML could not be started")
    if result.signal is not None:
        return GpuFault(FaultKind.CRASH, f"died of {result.signal} during the query")
    lines = result.stdout.strip().splitlines()  # the library may print too: our answer is the last line
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        answer = None
    if isinstance(answer, dict):
        return answer
    last_line = (result.stderr.strip().splitlines() or ["nothing was printed"])[-1]
    return GpuFault(FaultKind.CRASH, f"ended with exit code {result.exit_code}: {last_line[:200]}")


def parse_smi(result: ChildResult) -> SmiResult:
    if result.outcome == "missing":
        return SmiResult("missing")
    if result.outcome == "hung":
        return SmiResult("hangs")
    lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
    if result.exit_code == 0:  # without a GPU too: then its list is empty
        return SmiResult("works", lines[0] if lines else "")
    return SmiResult("fails", lines[0][:200] if lines else result.signal or f"exit code {result.exit_code}")


def _device(fields: Mapping[str, Any]) -> GpuDevice:
    processes = fields.get("processes")
    return GpuDevice(
        **{
            **fields,
            "fault": _fault(fields["fault"]) if fields.get("fault") else None,
            "processes": None if processes is None else tuple(GpuProcess(**process) for process in processes),
        }
    )


def _fault(fields: Mapping[str, Any]) -> GpuFault:
    return GpuFault(FaultKind(fields["kind"]), fields.get("message", ""), fields.get("code"))


async def _read(stream: asyncio.StreamReader | None) -> str:
    retained = bytearray()
    while stream is not None and (piece := await stream.read(65536)):
        if len(retained) < _MAX_OUTPUT_BYTES:
            retained += piece
    return retained.decode("utf-8", "replace")
