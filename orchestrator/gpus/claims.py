"""Demands, claims and grants of GPUs. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, Self, get_args

Sharing = Literal["exclusive", "shared"]

LABEL_GPUS: Final = "plugin-orchestrator.gpus"
"""Container label that holds its grant as JSON, from which a restarted orchestrator adopts it."""


@dataclass(frozen=True, slots=True)
class GpuDemand:
    """A plugin's demand: `count` GPUs with `memory` bytes free on each (None: any amount). `spread` counts where they
    are shared: a plugin's instances go to GPUs that have fewest of them, or most.
    """

    count: int = 1
    memory: int | None = None
    sharing: Sharing = "exclusive"
    spread: Literal["gpu", "pack"] = "gpu"

    @property
    def exclusive(self) -> bool:
        # A sharer that does not say how much memory it needs cannot be budgeted for.
        return self.sharing == "exclusive" or self.memory is None


class Phase(StrEnum):
    """Phase of a claim: HELD, then DRAINING, then released; QUARANTINED in between when draining takes too long."""

    HELD = "held"
    DRAINING = "draining"  # the container is removed; its device memory is not yet known to be free
    QUARANTINED = "quarantined"  # the memory was not freed in time: the device is granted to nobody


@dataclass(frozen=True, slots=True)
class Claim:
    """One instance's claim on one device. `memory`: its budget there in bytes, None for all of it; `since`: start of
    the phase, in seconds of the monotonic clock.
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
        return self.sharing == "exclusive" or self.phase is Phase.QUARANTINED


@dataclass(frozen=True, slots=True)
class Grant:
    """The devices of one instance (`holder`) of `plugin`.

    `baselines`: bytes in use on each device before its first claim, None where the driver does not say. `listed`: those
    of them that processes held which the driver listed. `parents`: MIG instance → the GPU it belongs to.
    """

    holder: str
    plugin: str
    uuids: tuple[str, ...]
    sharing: Sharing = "exclusive"
    memory: int | None = None
    baselines: Mapping[str, int | None] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    listed: Mapping[str, int | None] = field(default_factory=dict)

    def labels(self) -> dict[str, str]:
        """Container labels that `from_labels` reads."""
        content = {
            "devices": {uuid: self.baselines.get(uuid) for uuid in self.uuids},
            "sharing": self.sharing,
            "memory": self.memory,
            "parents": dict(self.parents),
            "listed": {uuid: self.listed.get(uuid) for uuid in self.uuids},
        }
        return {LABEL_GPUS: json.dumps(content, separators=(",", ":"))}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str], *, holder: str, plugin: str) -> Self | None:
        """The grant in a container's labels; None for a container without GPUs.

        Raises `ValueError` for a label that cannot be read.
        """
        if LABEL_GPUS not in labels:
            return None
        try:
            content = json.loads(labels[LABEL_GPUS])
            devices, sharing, memory = content["devices"], content["sharing"], content["memory"]
            parents, listed = content["parents"], content.get("listed", {})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the label {LABEL_GPUS} cannot be read") from error
        # Without a readable grant the container may use any GPU, so the caller must remove it.
        if (
            not isinstance(devices, dict)
            or not isinstance(parents, dict)
            or not isinstance(listed, dict)
            or not devices
            or sharing not in get_args(Sharing)
            or not all(
                value is None or isinstance(value, int) for value in (memory, *devices.values(), *listed.values())
            )
        ):
            raise ValueError(f"the label {LABEL_GPUS} cannot be read")
        return cls(holder, plugin, tuple(devices), sharing, memory, devices, parents, listed)
