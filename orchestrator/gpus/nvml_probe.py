"""Asks NVML from a child process, so that a driver that hangs or crashes is an answer, not the end of us."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.gpus.child import BoundedChild, ChildResult
from orchestrator.gpus.inventory import FaultKind, GpuDevice, GpuFault, GpuInventory

BOUND: Final = 5.0
"""Seconds for one look. A healthy driver takes well under one; a first look on a host without persistence mode, which
wakes every GPU, a second or two.
"""
_CHILD: Final = (sys.executable, "-P", "-m", "orchestrator.gpus.nvml")


class NvmlProbe:
    """Reads the inventory. Safe to be asked by many at once: they share one look."""

    def __init__(
        self, *, bound: float = BOUND, environment: Mapping[str, str] | None = None, command: Sequence[str] = _CHILD
    ) -> None:
        """`environment` is added to that of the child, e.g. an LD_LIBRARY_PATH where the driver's library lies."""
        self._bound = bound
        self._child = BoundedChild(command, bound=bound, environment=environment)
        self._look: asyncio.Task[GpuInventory] | None = None

    async def read(self) -> GpuInventory:
        """What NVML says now; `bound` seconds at the longest. Whatever goes wrong is the inventory's `fault`.

        Who asks while a look is under way gets that look's answer.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._read(), name="nvml")
        return await asyncio.shield(self._look)

    async def _read(self) -> GpuInventory:
        began, observed_at = time.monotonic(), datetime.now(UTC)
        said = parse(await self._child.run(), self._bound)
        if isinstance(said, GpuFault):
            return GpuInventory((), observed_at, began, fault=said)
        return GpuInventory(
            devices=tuple(_device(device) for device in said.get("devices", ())),
            observed_at=observed_at,
            began=began,
            driver_version=said.get("driver_version"),
            cuda_version=said.get("cuda_version"),
            library_version=said.get("library_version"),
            unidentified={int(index): _fault(fault) for index, fault in said.get("unidentified", {}).items()},
            fault=_fault(said["fault"]) if said.get("fault") else None,
        )


def parse(result: ChildResult, bound: float) -> dict[str, Any] | GpuFault:
    """What the child printed, or the fault that kept it from printing it."""
    if result.outcome == "hung":
        return GpuFault(FaultKind.HANG, f"no answer within {bound:g} s")
    if result.outcome == "missing":
        return GpuFault(FaultKind.CRASH, "the process that asks NVML could not be started")
    if result.signal is not None:
        return GpuFault(FaultKind.CRASH, f"died of {result.signal} while it was asked")
    lines = result.stdout.strip().splitlines()  # the library may print, too: ours is the last
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = None
    if isinstance(said, dict):
        return said
    last_words = (result.stderr.strip().splitlines() or ["nothing was printed"])[-1]
    return GpuFault(FaultKind.CRASH, f"ended with exit code {result.exit_code}: {last_words[:200]}")


def _device(said: Mapping[str, Any]) -> GpuDevice:
    return GpuDevice(**{**said, "fault": _fault(said["fault"]) if said.get("fault") else None})


def _fault(said: Mapping[str, Any]) -> GpuFault:
    return GpuFault(FaultKind(said["kind"]), said.get("said", ""), said.get("code"))
