"""Whether a GPU that a plugin runs on is lost, from one look after the other. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.gpus.host_check import doubtful, judge_running, kernel_log, words_of
from orchestrator.gpus.inventory import RESTART, GpuFault, GpuInventory, GpuProblem
from orchestrator.lifecycle import ReasonCode

# A look at a GPU fails now and then though it computes on: its neighbour is reset, the driver is busy, an interrupt was
# lost. A plugin is ended for such an error only when it was the answer to this many looks in a row...
LOST_AFTER_LOOKS: Final = 5
LOST_AFTER_SECONDS: Final = 10.0  # ... and for this long. A GPU that is lost, or is counted no more, ends it at once.


@dataclass(frozen=True, slots=True)
class Doubt:
    """Looks at one GPU that failed in a row. `since`, `until`: the first and the last, on the monotonic clock."""

    fault: GpuFault
    label: str
    looks: int
    since: float
    until: float

    @property
    def ends_plugin(self) -> bool:
        return self.looks >= LOST_AFTER_LOOKS and self.until - self.since >= LOST_AFTER_SECONDS

    @property
    def sentence(self) -> str:
        looks = "1 look" if self.looks == 1 else f"{self.looks} looks in a row"
        return (
            f"{self.label} did not answer {looks}: {words_of(self.fault)}. The plugin goes on; it is ended after "
            f"{LOST_AFTER_LOOKS} such looks in a row that take {LOST_AFTER_SECONDS:g} s."
        )


class LossWatch:
    """Which of the GPUs that plugins run on are lost."""

    def __init__(self) -> None:
        self._doubts: dict[str, Doubt] = {}

    @property
    def doubts(self) -> Mapping[str, Doubt]:
        """UUID → its last looks, where they failed for a reason that may pass."""
        return self._doubts

    def observe(self, uuids: Collection[str], inventory: GpuInventory) -> None:
        """Take in a look. `uuids`: all that plugins run on. A probe that failed as a whole counts neither way."""
        if inventory.fault is not None:
            return
        looked_at = ((uuid, doubtful(uuid, inventory)) for uuid in uuids)
        self._doubts = {uuid: self._doubt(uuid, fault, inventory) for uuid, fault in looked_at if fault is not None}

    def judge(self, uuids: Collection[str], inventory: GpuInventory) -> GpuProblem | None:
        """GPU_LOST where a plugin that runs on these has lost one; after `observe`."""
        if (problem := judge_running(uuids, inventory)) is not None:
            return problem
        for uuid in sorted(uuids):
            doubt = self._doubts.get(uuid)
            if doubt is not None and doubt.ends_plugin:
                return GpuProblem(
                    ReasonCode.GPU_LOST,
                    f"{doubt.label} did not answer {doubt.looks} looks in a row ({doubt.until - doubt.since:.0f} s) "
                    f"while the plugin ran on it: {words_of(doubt.fault)}. {kernel_log(None)} Reset it (nvidia-smi -r) "
                    f"or reboot, {RESTART}.",
                )
        return None

    def _doubt(self, uuid: str, fault: GpuFault, inventory: GpuInventory) -> Doubt:
        earlier, device = self._doubts.get(uuid), inventory.find(uuid)
        return Doubt(
            fault,
            f"{device.label} ({uuid})" if device else f"The GPU {uuid}",
            looks=earlier.looks + 1 if earlier else 1,
            since=earlier.since if earlier else inventory.probe_started,
            until=inventory.probe_started,
        )
