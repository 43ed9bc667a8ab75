"""Checks of a running orchestrator's answers, its containers and the licences in its images. Pure."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.audit.findings import Finding, error, findings_or_ok, ok, warning
from orchestrator.containers.spec import ContainerIsolation
from orchestrator.health.health_model import PluginHealthResponse
from orchestrator.lifecycle import FINAL_STATES, PluginLifecycleState, ReasonCode
from orchestrator.mcp.names import misfit
from orchestrator.supervisor.container_policy import RUN_FOLDER, TEMPORARY_FOLDER

ORCHESTRATOR: Final = "orchestrator"
_REQUIRED: Final = frozenset(PluginHealthResponse.model_fields)
_CONSTANT_FIELDS: Final = ("name", "version", "description", "limits")
"""Fields that cannot change within one instance."""
_SEEN: Final = "gpu:nvidia-smi"
"""The check of a plugin's container that has what nvidia-smi lists there."""
_GPU: Final = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ENGINE_SOCKETS: Final = ("docker.sock", "containerd.sock", "podman.sock")

LICENCE_PROGRAM: Final = """
import importlib.metadata as metadata, json
def licence(of):
    names = [c.split(' :: ')[-1] for c in of.get_all('Classifier') or () if c.startswith('License ::')]
    return of.get('License-Expression') or '; '.join(names) or (of.get('License') or '').strip().split(chr(10))[0][:120]
found = [d for d in metadata.distributions() if d.metadata['Name']]
print(json.dumps({d.metadata['Name']: [d.version, licence(d.metadata)] for d in found}))
"""
"""Run by the image's own Python; prints name → [version, licence] as one line of JSON."""
_REFUSED_LICENCES: Final = re.compile(
    r"\b(AGPL|Affero|SSPL|Server Side Public|BUSL|Business Source|Commons Clause|non-?commercial|CC-BY-NC)",
    re.IGNORECASE,
)
"""Licences that forbid offering a plugin as a service, or attach duties to it."""
_OWN_DISTRIBUTIONS: Final = frozenset({"plugin-runtime", "plugin_runtime", "pip", "setuptools", "wheel"})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API: the status, and the JSON if there was any."""

    path: str
    status: int
    content: Any = None


def check_statuses(answers: Collection[Answer]) -> list[Finding]:
    """Every answer has status 200."""
    wrong = [
        error(ORCHESTRATOR, "statuses", f"GET {answer.path} answered {answer.status}.")
        for answer in answers
        if answer.status != 200
    ]
    return findings_or_ok(ORCHESTRATOR, "statuses", wrong, f"{len(answers)} requests")


def check_plugin(listed: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterator[Finding]:
    """One plugin, as in the list and on its own route."""
    name = str(listed.get("name"))
    yield from findings_or_ok(name, "fields", list(_fields(name, listed)) + list(_fields(name, detail)))
    yield from findings_or_ok(name, "state", list(_state(name, detail)))
    yield from findings_or_ok(name, "agreement", list(_agreement(name, listed, detail)))


def check_tools(name: str, tools: Any) -> list[Finding]:
    """The tools of one plugin, as its route has them: those of a prebuilt image are known from nowhere else."""
    listed = tools if isinstance(tools, list) else []
    sentences = (misfit(name, str(tool.get("name"))) for tool in listed)
    return findings_or_ok(name, "tools", [warning(name, "tools", sentence) for sentence in sentences if sentence])


def check_isolation(health: Mapping[str, Any], held: ContainerIsolation) -> list[Finding]:
    """The container's limits and isolation in the engine, against what the API claims."""
    name = str(health.get("name"))
    found = [error(name, "isolation", f"{problem}.") for problem in _lax(health, held)]
    if _without_swap_limit(health, held):
        sentence = "The engine does not limit its swap: it has none only as long as the engine's machine has none."
        found.append(warning(name, "isolation", sentence))
    return findings_or_ok(name, "isolation", found)


def check_orphans(containers: Mapping[str, str], known: Collection[str]) -> list[Finding]:
    """`containers`: name → id of those that were made for an instance; `known`: ids in the API's answers."""
    unknown = [
        error(
            ORCHESTRATOR,
            "orphans",
            f"The container {name} belongs to no plugin: remove it with `docker rm --force {name}`.",
        )
        for name, container_id in sorted(containers.items())
        if not any(container_id.startswith(short) for short in known)  # the API has short ids
    ]
    return findings_or_ok(ORCHESTRATOR, "orphans", unknown, f"{len(containers)} containers")


def _fields(name: str, health: Mapping[str, Any]) -> Iterator[Finding]:
    missing = _REQUIRED - health.keys()
    if missing:
        yield error(name, "fields", f"The API leaves out {', '.join(sorted(missing))}.")


def _state(name: str, health: Mapping[str, Any]) -> Iterator[Finding]:
    state, code, reason = health.get("state"), health.get("reason_code"), health.get("reason")
    if not isinstance(state, str) or state not in PluginLifecycleState.__members__:
        yield error(name, "state", f"The state {state!r} is none of the five states.")
        return
    if (code is None) != (PluginLifecycleState(state) not in FINAL_STATES):
        yield error(
            name, "state", f"{state} with the reason code {code}: FAILED and UNAVAILABLE carry one, other states never."
        )
    elif code is not None:
        if code not in ReasonCode.__members__:
            yield error(name, "state", f"The reason code {code!r} is not known.")
        elif ReasonCode(code).final_state != state:
            yield error(name, "state", f"The reason code {code} does not belong to {state}.")
        if not reason:
            yield error(name, "state", f"{state} without a sentence that gives the reason.")
        else:
            yield warning(name, "state", f"{state}: {code}: {reason}")


def _agreement(name: str, listed: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterator[Finding]:
    if listed.get("generation") != detail.get("generation"):
        return  # it was restarted between the two requests
    differing = [field for field in _CONSTANT_FIELDS if listed.get(field) != detail.get(field)]
    if differing:
        yield error(name, "agreement", f"List and detail differ in {', '.join(differing)}.")
    for counter in ("success_count", "error_count"):
        if detail.get(counter, 0) < listed.get(counter, 0):
            yield error(name, "agreement", f"{counter} went back from {listed[counter]} to {detail[counter]}.")


def _lax(health: Mapping[str, Any], held: ContainerIsolation) -> Iterator[str]:
    limits = health.get("limits", {})
    claims: Sequence[tuple[str, object, object]] = (
        ("memory", held.memory, limits.get("memory_bytes")),
        ("memory and swap together", held.memory_and_swap, _memory_and_swap(limits)),
        ("pids", held.pids, limits.get("pids")),
        ("cpus", held.cpus, limits.get("cpus")),
        ("shared memory", held.shm, limits.get("shm_bytes")),
    )
    without_swap_limit = _without_swap_limit(health, held)
    for what, found, claimed in claims:
        if found != claimed and not (what == "memory and swap together" and without_swap_limit):
            yield f"The engine limits its {what} to {found}, the API claims {claimed}"
    loose: Mapping[str, bool] = {
        "It runs as root": held.user in {"", "0", "root"} or held.user.startswith("0:"),
        "It is privileged": held.privileged,
        "Its root file system is writable": not held.read_only,
        "It has capabilities": _has_capabilities(held),
        "It can gain privileges (no-new-privileges is not set)": not any(
            option.startswith("no-new-privileges") for option in held.security_options
        ),
        "A security profile is switched off": any("unconfined" in option for option in held.security_options),
        "It shares a network with the host or another container": held.network in {"host", ""}
        or held.network.startswith("container:"),
        "The engine restarts it automatically": held.restarts not in {"", "no"},
        "Its log can fill the disk": not held.bounded_logs,
        "The engine's socket is mounted in it": any(mount.source.name in _ENGINE_SOCKETS for mount in held.mounts),
    }
    yield from (problem for problem, found in loose.items() if found)
    given = {TEMPORARY_FOLDER, RUN_FOLDER, *(mount.target for mount in held.mounts)}
    if added := set(held.writable) - given:
        yield f"It can write to folders in memory that are not its own: {', '.join(sorted(added))}"
    yield from _gpu_leaks(health, held)


def _memory_and_swap(limits: Mapping[str, Any]) -> int | None:
    """What the API claims of both together; None where one of them is not limited."""
    memory, swap = limits.get("memory_bytes"), limits.get("swap_bytes")
    return None if memory is None or swap is None else memory + swap


def _without_swap_limit(health: Mapping[str, Any], held: ContainerIsolation) -> bool:
    """The API claims no swap, and that is not the engine's doing: the runtime has found none on its machine."""
    claimed = _memory_and_swap(health.get("limits", {}))
    return held.memory is not None and held.memory_and_swap is None and claimed is not None


def _gpu_leaks(health: Mapping[str, Any], held: ContainerIsolation) -> Iterator[str]:
    gpus = health.get("gpus", [])
    granted = {str(gpu.get("uuid")) for gpu in gpus}
    # CDI devices may be named by the driver's numbers, or all together; CUDA is held to the UUIDs all the same.
    named = {f"{gpu.get('index')}" for gpu in gpus} | ({"all"} if granted and held.cuda_gpus >= granted else set())
    visible = {each for each in held.visible_gpus.split(",") if each not in {"", "void", "none"}}
    requested = {device.rpartition("=")[2] for device in held.devices}
    extra = {each for each in (requested | visible) - granted if each.partition(":")[0] not in named}
    if extra:
        yield f"It has devices that the API does not list: {', '.join(sorted(extra))}"
    if held.cuda_gpus - granted:
        yield f"CUDA may use GPUs in it that the API does not list: {', '.join(sorted(held.cuda_gpus - granted))}"
    parents = {str(gpu.get("parent_uuid")) for gpu in gpus}
    details = " ".join(str(check.get("detail")) for check in health.get("checks", []) if check.get("name") == _SEEN)
    if seen := set(_GPU.findall(details)) - granted - parents:
        yield (
            f"The driver shows it GPUs that it was not granted ({', '.join(sorted(seen))}), as under WSL2; only "
            "CUDA_VISIBLE_DEVICES keeps CUDA from them"
        )


def _has_capabilities(held: ContainerIsolation) -> bool:
    if held.capabilities is not None:
        return held.capabilities != 0
    return "ALL" not in held.capabilities_dropped or bool(held.capabilities_added)


def no_container(name: str) -> Finding:
    """The finding for a plugin that has no container to check."""
    return ok(name, "isolation", "no container")


def check_licences(plugin: str, output: str) -> list[Finding]:
    """The licences in an image. `output`: what `LICENCE_PROGRAM` printed in it."""
    try:
        listed = json.loads(output.strip().splitlines()[-1])
        pairs = {str(name): (str(version), str(licence)) for name, (version, licence) in listed.items()}
    except (ValueError, IndexError, TypeError, AttributeError):
        return [warning(plugin, "licences", "The licences in its image could not be read.")]
    return findings_or_ok(plugin, "licences", list(_licences(plugin, pairs)), f"{len(pairs)} distributions")


def _licences(plugin: str, pairs: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    for name, (version, licence) in sorted(pairs.items()):
        if name in _OWN_DISTRIBUTIONS:
            continue
        if _REFUSED_LICENCES.search(licence):
            yield error(plugin, "licences", f"{name} {version} is under {licence}: replace it, or obtain a licence.")
        elif not licence or licence.upper() == "UNKNOWN":
            yield warning(plugin, "licences", f"{name} {version} does not state its licence: look it up.")
