"""GpuHost: all witnesses of this host's GPUs behind two questions, and the last answer for those who cannot wait."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from orchestrator.gpus.evidence import HardwareHints, Smi, look_for_hardware
from orchestrator.gpus.host_check import HostEvidence, judge_host
from orchestrator.gpus.inventory import GpuInventory
from orchestrator.gpus.nvml_probe import NvmlProbe

SMI_BOUND: Final = 5.0
"""Seconds."""


class GpuHost:
    """Never raises for what is wrong with a GPU: that is the `problem` of the inventory."""

    def __init__(
        self,
        probe: NvmlProbe | None = None,
        smi: Smi | None = None,
        hints: Callable[[], HardwareHints] = look_for_hardware,
    ) -> None:
        self._probe = probe or NvmlProbe()
        self._smi = smi or Smi(bound=SMI_BOUND)
        self._hints = hints
        self._latest: GpuInventory | None = None
        self._check: asyncio.Task[GpuInventory] | None = None

    @property
    def latest(self) -> GpuInventory | None:
        """The newest answer, judged; None before the first. For API routes: it asks nobody."""
        return self._latest

    async def read(self) -> GpuInventory:
        """NVML's view, judged without the second opinion. For regular looks. Some 5 s at the longest."""
        inventory, hints = await asyncio.gather(self._probe.read(), asyncio.to_thread(self._hints))
        return self._keep(replace(inventory, problem=judge_host(HostEvidence(inventory, hints))))

    async def check(self) -> GpuInventory:
        """All witnesses, nvidia-smi among them. For the time before a start. Some 5 s at the longest. Who asks while a
        check is under way gets that one's answer.
        """
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._run_check(), name="gpu check")
        return await asyncio.shield(self._check)

    async def _run_check(self) -> GpuInventory:
        inventory, smi, hints = await asyncio.gather(
            self._probe.read(), self._smi.ask(), asyncio.to_thread(self._hints)
        )
        return self._keep(replace(inventory, problem=judge_host(HostEvidence(inventory, hints, smi))))

    def _keep(self, inventory: GpuInventory) -> GpuInventory:
        if self._latest is None or inventory.began >= self._latest.began:
            self._latest = inventory
        return inventory
