"""What the leases look like from outside: the API's fields and the operator's sentences. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from orchestrator.formatting import gib
from orchestrator.gpus.claims import Claim, GpuDemand, Phase
from orchestrator.gpus.placement import Place, why_not

_STATES: Final = (Phase.QUARANTINED, Phase.DRAINING, Phase.HELD)
"""The first of these that a claim is in is the device's state."""


def place_report(place: Place) -> dict[str, Any]:
    """One device's leases. `state`: free, held, draining, quarantined, or unusable (in itself, or because of leases on
    the GPU that it is a part of, or on its parts).
    """
    phases = {claim.phase for claim in place.claims}
    usable = place.device is not None and place.device.grantable and not place.relatives
    return {
        "state": next((str(phase) for phase in _STATES if phase in phases), "free" if usable else "unusable"),
        "memory_available_bytes": place.available if usable else None,
        "holders": [
            {
                "plugin": claim.plugin,
                "instance": claim.holder,
                "sharing": claim.sharing,
                "memory_bytes": claim.memory,
                "phase": str(claim.phase),
            }
            for claim in place.claims
        ],
    }


def refusal(demand: GpuDemand, places: Sequence[Place]) -> str:
    """Why `demand` cannot be met: each device with its own reason, and what to do."""
    split = {place.device.parent_uuid for place in places if place.device is not None}
    reasons = "; ".join(
        f"{_name(place)} {why_not(demand, place) or 'would do'}" for place in places if place.uuid not in split
    )
    if any(place.claims or place.relatives for place in places):
        cure = "Stop a plugin that has one"
    else:
        cure = "Free a GPU, or ask for less under `gpu` in the manifest"
    return f"No room for a plugin that needs {_wish(demand)}: {reasons}. {cure}, then restart the plugin."


def quarantine_sentence(claim: Claim, place: Place) -> str:
    """For a device whose memory did not come back after `claim`."""
    device, baseline = place.device, place.baseline
    if device is None or device.memory_used is None or baseline is None:
        why = "whether its memory came back cannot be seen"
    else:
        why = f"{gib(device.memory_used)} of its memory are in use, {gib(baseline)} were before that plugin came"
    return (
        f"{_name(place)} ({place.uuid}) is quarantined: the container of the plugin {claim.plugin} is gone, and {why}. "
        "End the process that still holds it (nvidia-smi shows it) and it comes back by itself, or take it out of "
        f"quarantine as it is: orchestrator gpus --release {place.uuid}"
    )


def free_sentence(claim: Claim) -> str:
    """For a device that `claim` has given back."""
    return f"The plugin {claim.plugin} has given back {claim.uuid}."


def _wish(demand: GpuDemand) -> str:
    gpus = "a GPU" if demand.count == 1 else f"{demand.count} GPUs"
    terms = " for itself" if demand.alone else " to share"
    each = " on each" if demand.count > 1 else ""
    return f"{gpus}{terms}" + ("" if demand.memory is None else f" with {gib(demand.memory)} free{each}")


def _name(place: Place) -> str:
    return place.device.label if place.device is not None else "A GPU"
