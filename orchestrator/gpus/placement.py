"""Placement: the devices for a demand, and why a device does not suit it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from orchestrator.formatting import gib
from orchestrator.gpus.claims import Claim, GpuDemand, Phase
from orchestrator.gpus.host_check import sick_gpu, sick_problem, words_of
from orchestrator.gpus.inventory import GpuDevice, GpuProblem
from orchestrator.lifecycle import ReasonCode


@dataclass(frozen=True, slots=True)
class DeviceClaims:
    """A device and the claims on it. `device` is None where the last probe did not find it.

    `related`: claims on its parent GPU, or on its own MIG instances. `baseline`: bytes in use before the first claim.
    """

    uuid: str
    device: GpuDevice | None
    claims: tuple[Claim, ...] = ()
    related: tuple[Claim, ...] = ()
    baseline: int | None = None

    @property
    def name(self) -> str:
        return self.device.label if self.device is not None else "A GPU"

    @property
    def available_memory(self) -> int | None:
        """Bytes that are neither in use nor promised; None where the driver does not report memory."""
        total, used = self.device.usable_memory if self.device is not None else (None, None)
        if total is None:
            return None
        promised = sum(claim.memory or 0 for claim in self.claims) + (self.baseline or 0)
        # A plugin may use less than it was promised, as yet, or more.
        return max(0, total - max(promised, used or 0))


def choose(demand: GpuDemand, candidates: Sequence[DeviceClaims], plugin: str = "") -> tuple[DeviceClaims, ...] | None:
    """The devices for another instance of `plugin`, or None where too few suit its demand."""
    sign = 1 if demand.spread == "gpu" else -1

    def rank(candidate: DeviceClaims) -> tuple[float, ...]:
        return sign * sum(claim.plugin == plugin for claim in candidate.claims), *_rank(candidate)

    suitable = sorted((each for each in candidates if reason_against(demand, each) is None), key=rank)
    return tuple(suitable[: demand.count]) if len(suitable) >= demand.count else None


def most_instances(demand: GpuDemand, devices: Sequence[GpuDevice]) -> int:
    """How many instances of `demand` these GPUs have room for when nothing else uses them."""
    usable = [device for device in devices if device.grantable and (demand.count == 1 or device.parent_uuid is None)]
    room = [_room(demand, device) for device in usable]
    most = 0
    # Each instance needs `count` different GPUs, so a GPU counts at most once for each.
    while sum(min(each, most + 1) for each in room) >= (most + 1) * demand.count:
        most += 1
    return most


def _room(demand: GpuDemand, device: GpuDevice) -> int:
    total = device.usable_memory[0]
    if demand.exclusive:
        return 1 if demand.memory is None or total is None or demand.memory <= total else 0
    return 0 if total is None or demand.memory is None else total // demand.memory


def reason_against(demand: GpuDemand, candidate: DeviceClaims) -> str | None:
    """Why this device does not suit `demand`, as a clause to follow its name; None where it does."""
    device = candidate.device
    if device is None:
        return "was removed"
    if device.fault is not None:
        return f"is out of order ({words_of(device.fault)})"
    if device.mig_enabled:
        return "is split into MIG instances and only they can be granted"
    if device.parent_uuid is not None and demand.count > 1:
        return "is a MIG instance, of which a program can use only one"
    for claim in (*candidate.claims, *candidate.related):
        # Sharing is for one device: a claim on its parent GPU or its MIG instances is in the way of sharers too.
        if claim.blocks_others or demand.exclusive or claim in candidate.related:
            return _claimed_by(claim)
    return _too_little_memory(demand, candidate)


def refusal(demand: GpuDemand, candidates: Sequence[DeviceClaims], unreadable: Sequence[GpuDevice] = ()) -> GpuProblem:
    """Why `demand` cannot be met. `unreadable`: GPUs that do not say which they are, and are no candidates."""
    devices = [each.device for each in candidates if each.device is not None and not each.device.mig_enabled]
    sick = [*(device for device in devices if device.fault is not None), *unreadable]
    healthy = [device for device in devices if device.fault is None]
    # Nothing that is stopped would help: the healthy ones are too few, leased or not.
    if 0 < len(healthy) < demand.count <= len(healthy) + len(sick):
        return sick_problem(sick, f"This host has {len(healthy)} usable GPUs and the plugin needs {demand.count}")
    if healthy and not demand.exclusive and all(device.usable_memory[0] is None for device in healthy):
        labels = ", ".join(device.label for device in healthy)
        return GpuProblem(
            ReasonCode.GPU_DRIVER_ERROR,
            f"No plugin can share a GPU of this host: {labels} does not report its memory, so none of it can be "
            "promised. Set `gpu.sharing: exclusive` in the manifest, or update the driver, then restart the plugin.",
        )
    return GpuProblem(ReasonCode.GPU_BUSY, busy_sentence(demand, candidates, unreadable))


def busy_sentence(demand: GpuDemand, candidates: Sequence[DeviceClaims], unreadable: Sequence[GpuDevice] = ()) -> str:
    """Why `demand` cannot be met now: each device with its reason, and what to do."""
    if any(each.claims or each.related for each in candidates):
        cure = "Stop a plugin that has one"
    else:
        cure = "Free a GPU, or demand less under `gpu` in the manifest"
    return f"{why_busy(demand, candidates, unreadable)} {cure}, then restart the plugin."


def why_busy(demand: GpuDemand, candidates: Sequence[DeviceClaims], unreadable: Sequence[GpuDevice] = ()) -> str:
    """As `busy_sentence`, without what to do."""
    # A split GPU is left out: its MIG instances have reasons of their own.
    split = {each.device.parent_uuid for each in candidates if each.device is not None}
    reasons = [
        f"{each.name} {reason_against(demand, each) or 'would do'}" for each in candidates if each.uuid not in split
    ]
    reasons += [sick_gpu(device) for device in unreadable]
    return f"No GPU is free for a plugin that needs {_demand(demand)}: {'; '.join(reasons)}."


def _too_little_memory(demand: GpuDemand, candidate: DeviceClaims) -> str | None:
    if demand.memory is None:
        return None
    available = candidate.available_memory
    if available is None:
        return None if demand.exclusive else "does not report its memory, so it cannot be shared"
    if demand.memory <= available:
        return None
    plugins = ", ".join(sorted({claim.plugin for claim in candidate.claims}))
    total = candidate.device.usable_memory[0] if candidate.device else None
    return f"has {gib(available)} of its {gib(total or 0)} free{f' beside {plugins}' if plugins else ''}"


def _claimed_by(claim: Claim) -> str:
    match claim.phase:
        case Phase.HELD:
            return f"is {'held' if claim.sharing == 'exclusive' else 'shared'} by the plugin {claim.plugin}"
        case Phase.DRAINING:
            return f"is being released by the plugin {claim.plugin}"
        case Phase.QUARANTINED:
            return f"is quarantined: memory that the plugin {claim.plugin} used was not freed"


def _demand(demand: GpuDemand) -> str:
    gpus = "a GPU" if demand.count == 1 else f"{demand.count} GPUs"
    sharing = " for itself" if demand.exclusive else " to share"
    each = " on each" if demand.count > 1 else ""
    return f"{gpus}{sharing}" + ("" if demand.memory is None else f" with {gib(demand.memory)} free{each}")


def _rank(candidate: DeviceClaims) -> tuple[float, ...]:
    device = candidate.device
    if device is None:
        return (inf,)
    # Sharers go where others already share, so that whole GPUs stay free.
    return (0 if candidate.claims else 1, *size_rank(device))


def size_rank(device: GpuDevice) -> tuple[float, ...]:
    """The smallest GPU that suffices is taken, so that MIG instances go before whole GPUs."""
    total, used = device.usable_memory
    return (inf if total is None else total, used or 0, device.index, device.mig_index or 0)
