"""Answers of hosts as placement needs them, and a placement as the API reports it. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.front.directory import KnownHost
from orchestrator.front.placement import GpuWants, HostFacts, HostGpu, Placement, PluginWants
from orchestrator.loader.placement_field import PlacementField


def plugin_wants(plugin: str, wants: Mapping[str, Any]) -> PluginWants:
    """From `wants` of a host's `GET /v1/plugins/{name}/placement`."""
    field = PlacementField.model_validate({"hosts": wants["hosts"], "requires": wants["requires"]})
    gpu = wants["gpu"]
    return PluginWants(
        plugin,
        hosts=field.hosts,
        replicas=int(wants["replicas"]),
        memory=int(wants["memory_bytes"]),
        labels=tuple(sorted(field.labels.items())),
        gpu=None
        if gpu is None
        else GpuWants(
            count=int(gpu["count"]),
            memory=gpu["memory_bytes"],
            shared=gpu["sharing"] == "shared",
            name=field.gpu_name,
            size=field.gpu_memory,
        ),
        pack=wants["spread"] == "pack",
    )


def host_facts(
    host: KnownHost, plugin: str, answer: Mapping[str, Any] | None = None, gpus: Mapping[str, Any] | None = None
) -> HostFacts:
    """One host for the placement of one plugin. `answer`: its own for that plugin, None where it gives none; `gpus`:
    its `GET /v1/gpus`, None where no GPU is wanted.
    """
    has: Mapping[str, Any] = {} if answer is None else answer["has"]
    return HostFacts(
        host.name,
        host.status.state,
        tuple(sorted(host.labels.items())),
        memory=has.get("memory_bytes") or 0,
        committed=has.get("committed_bytes") or 0,
        gpus=() if gpus is None else tuple(_gpus(gpus["devices"])),
        has_plugin=answer is not None and answer["wants"] is not None,
        has_image=bool(has.get("image")),
        has_models=bool(has.get("models")),
        instances=live_instances(host, plugin),
        ended=has_failed(host, plugin),
    )


def live_instances(host: KnownHost, plugin: str) -> int:
    """Those that serve or start there, and those that the next run starts, as far as is known."""
    known = host.plugins.get(plugin)
    if known is None or not (known.alive or known.parked):
        return 0
    alive = sum(each["reason_code"] is None for each in known.report["instances"])
    return max(1, alive)


def has_failed(host: KnownHost, plugin: str) -> bool:
    """Whether what was started there has ended, and no operator has stopped it."""
    known = host.plugins.get(plugin)
    return known is not None and not (known.alive or known.idle)


def placement_report(plugin: str, wants: Mapping[str, Any] | None, placement: Placement) -> dict[str, Any]:
    """What `GET /v1/plugins/{name}/placement` answers at a front."""
    return {
        "plugin": plugin,
        "wants": wants,
        "hosts": [
            {
                "host": verdict.host,
                "rule": verdict.rule,
                "accepted": verdict.host in placement.order,
                "chosen": verdict.chosen,
                "replicas": verdict.replicas,
                "reason": verdict.sentence,
            }
            for verdict in placement.verdicts
        ],
    }


def _gpus(devices: Iterable[Mapping[str, Any]]) -> Iterable[HostGpu]:
    for device in devices:
        # One that is split is granted by its MIG instances; one that is faulty or gone is not.
        if device.get("mig_enabled") or not device.get("healthy"):
            continue
        memory = device["system_memory_total_bytes"] if device["unified_memory"] else device["memory_total_bytes"]
        yield HostGpu(
            device["name"] or "a GPU without a name",
            memory,
            device["memory_available_bytes"],
            free=device["state"] == "free",
            shared=any(holder["sharing"] == "shared" for holder in device["holders"]) and device["state"] == "held",
            mig=device["parent_uuid"] is not None,
        )
