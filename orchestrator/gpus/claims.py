"""The words for who has which GPU."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, Self, get_args

Sharing = Literal["exclusive", "shared"]

LABEL_GPUS: Final = "plugin-orchestrator.gpus"
"""Of a container: its grant as JSON, so that a restarted orchestrator can take it up again."""


@dataclass(frozen=True, slots=True)
class GpuDemand:
    """What a plugin asks for: `count` GPUs, `memory` bytes free on each (None: whatever there is), alone or shared."""

    count: int = 1
    memory: int | None = None
    sharing: Sharing = "exclusive"

    @property
    def alone(self) -> bool:
        """It shares with nobody. Who shares without saying how much memory it needs cannot be budgeted for."""
        return self.sharing == "exclusive" or self.memory is None


class Phase(StrEnum):
    """Of a claim. It begins as HELD and is gone after DRAINING, or after QUARANTINED where draining took too long."""

    HELD = "held"
    DRAINING = "draining"
    """The container is gone, its memory on the device not yet known to be back."""
    QUARANTINED = "quarantined"
    """The memory did not come back in time: nobody gets the device."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One instance's hold on one device. `memory`: bytes that it may use there, None for all; `since`: seconds of the
    monotonic clock at which its phase began.
    """

    holder: str
    plugin: str
    uuid: str
    sharing: Sharing
    memory: int | None
    phase: Phase = Phase.HELD
    since: float = 0.0

    @property
    def blocks_others(self) -> bool:
        """Nobody else may come onto the device, shared or not."""
        return self.sharing == "exclusive" or self.phase is Phase.QUARANTINED


@dataclass(frozen=True, slots=True)
class Grant:
    """The devices of one instance. `holder` names the instance, `plugin` whom it is an instance of.

    `baselines`: bytes in use on each device before its first holder came; a device is free again when no more than that
    is. None where the driver did not tell.
    """

    holder: str
    plugin: str
    uuids: tuple[str, ...]
    sharing: Sharing = "exclusive"
    memory: int | None = None
    baselines: Mapping[str, int | None] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    """Of the MIG instances among them: the GPU that each is a part of."""

    def labels(self) -> dict[str, str]:
        """To be put on the container, for `from_labels`."""
        content = {
            "devices": {uuid: self.baselines.get(uuid) for uuid in self.uuids},
            "sharing": self.sharing,
            "memory": self.memory,
            "parents": dict(self.parents),
        }
        return {LABEL_GPUS: json.dumps(content, separators=(",", ":"))}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str], *, holder: str, plugin: str) -> Self | None:
        """The grant that a container's labels tell of; None for a container without GPUs.

        Raises `ValueError` for a label that cannot be read: such a container may use any GPU and must go.
        """
        if LABEL_GPUS not in labels:
            return None
        try:
            content = json.loads(labels[LABEL_GPUS])
            devices, sharing, memory = content["devices"], content["sharing"], content["memory"]
            parents = content["parents"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the label {LABEL_GPUS} cannot be read") from error
        if (
            not isinstance(devices, dict)
            or not isinstance(parents, dict)
            or not devices
            or sharing not in get_args(Sharing)
            or not all(value is None or isinstance(value, int) for value in (memory, *devices.values()))
        ):
            raise ValueError(f"the label {LABEL_GPUS} cannot be read")
        return cls(holder, plugin, tuple(devices), sharing, memory, devices, parents)
