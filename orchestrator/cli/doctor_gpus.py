"""What `doctor` reports of GPUs: the host's, and whether and how the engine can hand them out. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.audit.findings import Finding, error, ok, warning
from orchestrator.formatting import gib
from orchestrator.gpus import GpuDemand, GpuInventory
from orchestrator.gpus.device_requests import WAY_NAMES, EngineGpus, Way, device_requests
from orchestrator.gpus.evidence import NodeAccess
from orchestrator.gpus.host_check import PERSISTENCE, sick_gpu
from orchestrator.gpus.placement import most_instances
from orchestrator.gpus.probe import PROBE_SECONDS
from orchestrator.gpus.refusals import INSTALL_TOOLKIT, judge_engine, without_names

_OPEN_NODES: Final = "Have the driver make them for all (NVreg_DeviceFileMode=0666)"


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`engine` is None where it does not answer; `same_groups`: groups have the same numbers in its containers as on
    this host; `reported`: what GET /v1/gpus of a running orchestrator says of the engine.
    """

    inventory: GpuInventory
    engine: EngineGpus | None
    nodes: NodeAccess = field(default_factory=NodeAccess)
    forced: Way | None = None
    groups: Sequence[int] = ()
    same_groups: bool = True
    reported: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What a plugin needs of GPUs: `demand` for each of its `replicas`."""

    plugin: str
    demand: GpuDemand
    replicas: int


def gpus(facts: GpuFacts, needs: Sequence[GpuNeed]) -> Iterator[Finding]:
    """A missing GPU is a warning only if a plugin needs one."""
    needing = ", ".join(need.plugin for need in needs)
    inventory = facts.inventory
    if inventory.old_binding is not None:
        yield warning(
            "gpus",
            "binding",
            f"{inventory.old_binding} stands in the way of nvidia-ml-py, and some figures may be missing. Remove it: "
            "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
        )
    if inventory.problem is not None:
        sentence = inventory.problem.sentence.rstrip(".")
        yield (
            warning("gpus", "host", f"{sentence} (needed by {needing})")
            if needing
            else ok("gpus", "host", "no usable GPU; no plugin here needs one")
        )
        return
    for device in inventory.sick:
        yield warning("gpus", device.label, f"{sick_gpu(device)}: plugins get the others. Reset it, or reboot")
    if inventory.seconds is not None and inventory.seconds > PROBE_SECONDS:
        yield warning("gpus", "driver", f"it took {inventory.seconds:.0f} s to answer: {PERSISTENCE}")
    names = ", ".join(device.label for device in inventory.devices if device.fault is None)
    yield ok("gpus", "host", f"{names}; driver {inventory.driver_version}, CUDA {inventory.cuda_version}")
    for need in needs:
        yield from _room(inventory, need)
    if facts.engine is not None:
        yield _engine(inventory, facts.engine, facts.forced)
    yield from _nodes(facts)
    yield from _reported(facts.reported or {})


def _room(inventory: GpuInventory, need: GpuNeed) -> Iterator[Finding]:
    most = most_instances(need.demand, inventory.devices)
    if need.replicas <= most:
        return
    wanted = "one instance" if need.replicas == 1 else f"{need.replicas} instances (`replicas`)"
    count = need.demand.count
    each = f"{count} GPU{'s' if count > 1 else ''}{'' if need.replicas == 1 else ' each'}"
    memory = "" if need.demand.memory is None else f" with {gib(need.demand.memory)}{' on each' if count > 1 else ''}"
    yield warning(
        "gpus",
        need.plugin,
        f"it wants {wanted} with {each}{memory}, and the usable GPUs of this host have room for {most or 'none'}, even "
        f"when nothing else uses them. Lower {'`replicas` or ' if need.replicas > 1 else ''}what it needs under `gpu`",
    )


def _engine(inventory: GpuInventory, engine: EngineGpus, forced: Way | None) -> Finding:
    problem = judge_engine(engine, forced)
    if problem is not None:
        return warning("gpus", "engine", problem.sentence_of_host)
    if not engine.drivers and forced is None:
        return warning("gpus", "engine", f"the engine lists no GPU driver. {INSTALL_TOOLKIT}")
    usable = [device.uuid for device in inventory.devices if device.fault is None and not device.mig_enabled]
    ways = [device_requests([uuid], engine, inventory, forced=forced) for uuid in usable]
    if not all(ways):
        return warning("gpus", "engine", without_names().sentence_of_host)
    tried = dict.fromkeys(WAY_NAMES[each.driver] for requests in ways for each in requests)
    return ok("gpus", "engine", ", then ".join(tried))


def _nodes(facts: GpuFacts) -> Iterator[Finding]:
    if facts.nodes.closed:
        nodes = ", ".join(facts.nodes.closed)
        yield error("gpus", "device nodes", f"only root may open {nodes}, and plugins are not root. {_OPEN_NODES}")
        return
    missing = sorted(set(facts.nodes.groups) - set(facts.groups)) if not facts.same_groups else []
    if missing:
        yield warning(
            "gpus",
            "device nodes",
            f"only members of group {', '.join(map(str, missing))} may open /dev/nvidia*, and groups have other "
            f"numbers in this engine's containers. {_OPEN_NODES}; or set ORCHESTRATOR_GPU_GROUPS to the number there",
        )
    elif facts.nodes.groups:
        groups = ", ".join(map(str, facts.nodes.groups))
        yield ok("gpus", "device nodes", f"for members of group {groups} alone, which containers with GPUs are")


def _reported(engine: Mapping[str, Any]) -> Iterator[Finding]:
    served = engine.get("served_by")
    if served:
        yield ok("gpus", "served by", WAY_NAMES.get(served, str(served)))
    for way, sentence in (engine.get("refused") or {}).items():
        report = ok if served else warning
        yield report("gpus", f"refused ({way})", str(sentence))
