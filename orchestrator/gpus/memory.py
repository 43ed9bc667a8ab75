"""Whose memory it is on a GPU: holdings of plugins and of other programs, and who is over its budget. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.formatting import gib
from orchestrator.gpus.inventory import GpuDevice


@dataclass(frozen=True, slots=True)
class Holding:
    """One plugin's memory on one GPU, in bytes. `budget_bytes`: its `gpu.memory`, None where it declares none;
    `held_bytes`: what its processes hold, None where the driver does not say.
    """

    budget_bytes: int | None = None
    held_bytes: int | None = None

    @property
    def over(self) -> int | None:
        """Bytes above the budget, 0 within it; None where budget or holding is unknown."""
        if self.budget_bytes is None or self.held_bytes is None:
            return None
        return max(0, self.held_bytes - self.budget_bytes)


def listed_bytes(device: GpuDevice | None, owners: Mapping[int, str] | None = None, owner: str = "") -> int | None:
    """Bytes of the device that listed processes hold; with `owners` (number → holder) only those of `owner`. None where
    the driver does not say.
    """
    if device is None or device.processes is None:
        return None
    counted = [each for each in device.processes if owners is None or owners.get(each.pid) == owner]
    if any(each.memory is None for each in counted):
        return None
    return sum(each.memory or 0 for each in counted)


def memory_blame(gpu_id: str, holdings: Mapping[str, Holding], victim: str, *, other_bytes: int | None = None) -> str:
    """Whose memory it was when the plugin `victim` was out of memory on this GPU, and what to do.

    `holdings`: every plugin on the GPU, by its name, the victim's own as it was before the failed request.
    `other_bytes`: memory of programs that are no plugins, None where it is not known.
    """
    own = holdings.get(victim, Holding())
    others = {plugin: holding for plugin, holding in sorted(holdings.items()) if plugin != victim}
    said = [f"The plugin {victim} was out of memory on the GPU {gpu_id}", _holding(own)]
    said += [f"the plugin {plugin} on the same GPU {_holding(holding)}" for plugin, holding in others.items()]
    if other_bytes:
        said.append(f"programs that are no plugins hold {gib(other_bytes)}")
    return f"{said[0]}: it {'; '.join(said[1:])}. {_cure(victim, own, others, other_bytes)}"


def over_budget(plugin: str, gpu_id: str, holding: Holding) -> str | None:
    """The sentence for a plugin that holds more of this GPU than its budget; None for one that does not, as far as is
    known.
    """
    if not holding.over or holding.budget_bytes is None or holding.held_bytes is None:
        return None
    return (
        f"The plugin {plugin} holds {gib(holding.held_bytes)} of the GPU {gpu_id}, and its budget (gpu.memory) is "
        f"{gib(holding.budget_bytes)}: plugins that share the GPU may run out of memory. Have it use less, or raise "
        "gpu.memory in its manifest and restart it."
    )


def _holding(holding: Holding) -> str:
    budget = "declares no budget" if holding.budget_bytes is None else f"declares {gib(holding.budget_bytes)}"
    if holding.held_bytes is None:
        return f"{budget}; what it held is not known"
    over = ", which is over its budget" if holding.over else ""
    return f"held {gib(holding.held_bytes)} and {budget}{over}"


def _cure(victim: str, own: Holding, others: Mapping[str, Holding], other_bytes: int | None) -> str:
    if guilty := [plugin for plugin, holding in others.items() if holding.over]:
        names = " and ".join(guilty)
        return f"Have {names} use less, or raise gpu.memory in its manifest; then restart the plugin {victim}."
    if own.over:
        return f"Have {victim} use less, or raise gpu.memory in its manifest; then restart the plugin."
    if any(holding.held_bytes is None for holding in (own, *others.values())):
        return (
            "Whose memory it was cannot be known: the driver does not report the memory of each process here. Compare "
            "`nvidia-smi` on the host with the budgets; then restart the plugin."
        )
    if other_bytes:
        return (
            "No plugin was over its budget: end the other programs (`nvidia-smi` on the host names them) or use "
            "another GPU; then restart the plugin."
        )
    return (
        f"No plugin was over its budget: {victim} needs more than the GPU had left. Raise gpu.memory in its manifest, "
        "so that it gets a GPU with enough of it, or have it use less; then restart the plugin."
    )
