"""What a running orchestrator keeps: its answers held against each other and against the engine's word. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.audit.findings import Finding, error, ok, settled, warning
from orchestrator.containers.spec import ContainerIsolation
from orchestrator.health.health_model import PluginHealthResponse
from orchestrator.lifecycle import FINAL_STATES, PluginLifecycleState, ReasonCode

ORCHESTRATOR: Final = "orchestrator"
_REQUIRED: Final = frozenset(PluginHealthResponse.model_fields)
_STEADY: Final = ("name", "version", "description", "limits")
"""Fields that cannot differ between two questions to the same instance."""
_ENGINE_SOCKETS: Final = ("docker.sock", "containerd.sock", "podman.sock")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said: the status, and the JSON where it was some."""

    path: str
    status: int
    content: Any = None


def check_statuses(answers: Collection[Answer]) -> list[Finding]:
    """Nothing returned 500, and the health routes only 200."""
    wrong = [
        error(ORCHESTRATOR, "statuses", f"GET {answer.path} answered {answer.status}.")
        for answer in answers
        if answer.status != 200
    ]
    return settled(ORCHESTRATOR, "statuses", wrong, f"{len(answers)} questions")


def check_plugin(listed: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterator[Finding]:
    """One plugin, as the list and as its own route tell of it."""
    name = str(listed.get("name"))
    yield from settled(name, "fields", list(_fields(name, listed)) + list(_fields(name, detail)))
    yield from settled(name, "state", list(_state(name, detail)))
    yield from settled(name, "agreement", list(_agreement(name, listed, detail)))


def check_isolation(health: Mapping[str, Any], held: ContainerIsolation) -> list[Finding]:
    """What the engine holds the container to, against what the API claims and the contract promises."""
    name = str(health.get("name"))
    return settled(name, "isolation", [error(name, "isolation", f"{said}.") for said in _lax(health, held)])


def check_orphans(containers: Mapping[str, str], known: Collection[str]) -> list[Finding]:
    """`containers`: name → id of those that carry the deployment's label; `known`: ids that the API tells of."""
    unknown = [
        error(ORCHESTRATOR, "orphans", f"The container {name} is ours and no plugin's: docker rm --force {name}.")
        for name, container_id in sorted(containers.items())
        if not any(container_id.startswith(short) for short in known)
    ]
    return settled(ORCHESTRATOR, "orphans", unknown, f"{len(containers)} containers")


def _fields(name: str, health: Mapping[str, Any]) -> Iterator[Finding]:
    missing = _REQUIRED - health.keys()
    if missing:
        yield error(name, "fields", f"The API leaves out {', '.join(sorted(missing))}.")


def _state(name: str, health: Mapping[str, Any]) -> Iterator[Finding]:
    state, code, reason = health.get("state"), health.get("reason_code"), health.get("reason")
    if not isinstance(state, str) or state not in PluginLifecycleState.__members__:
        yield error(name, "state", f"The state {state!r} is none of the five.")
        return
    if (code is None) != (PluginLifecycleState(state) not in FINAL_STATES):
        yield error(
            name, "state", f"{state} with the reason code {code}: only FAILED and UNAVAILABLE carry one, always."
        )
    elif code is not None:
        if code not in ReasonCode.__members__:
            yield error(name, "state", f"The reason code {code!r} is not known.")
        elif ReasonCode(code).final_state != state:
            yield error(name, "state", f"The reason code {code} does not belong to {state}.")
        if not reason:
            yield error(name, "state", f"{state} without a sentence that says why.")
        else:
            yield warning(name, "state", f"{state}: {code}: {reason}")


def _agreement(name: str, listed: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterator[Finding]:
    if listed.get("generation") != detail.get("generation"):
        return  # it was restarted between the two questions
    differing = [field for field in _STEADY if listed.get(field) != detail.get(field)]
    if differing:
        yield error(name, "agreement", f"List and detail differ in {', '.join(differing)}.")
    for counter in ("success_count", "error_count"):
        if detail.get(counter, 0) < listed.get(counter, 0):
            yield error(name, "agreement", f"{counter} went back from {listed[counter]} to {detail[counter]}.")


def _lax(health: Mapping[str, Any], held: ContainerIsolation) -> Iterator[str]:
    limits = health.get("limits", {})
    claims: Sequence[tuple[str, object, object]] = (
        ("memory", held.memory, limits.get("memory_bytes")),
        ("memory and swap together", held.memory_and_swap, limits.get("memory_bytes")),
        ("pids", held.pids, limits.get("pids")),
        ("cpus", held.cpus, limits.get("cpus")),
        ("shared memory", held.shm, limits.get("shm_bytes")),
    )
    for what, found, claimed in claims:
        if found != claimed:
            yield f"The engine holds it to {what} {found}, the API claims {claimed}"
    loose: Mapping[str, bool] = {
        "It runs as root": held.user in {"", "0", "root"} or held.user.startswith("0:"),
        "It is privileged": held.privileged,
        "Its root file system can be written": not held.read_only,
        "It has capabilities": "ALL" not in held.capabilities_dropped or bool(held.capabilities_added),
        "It can gain privileges (no-new-privileges is not set)": not any(
            option.startswith("no-new-privileges") for option in held.security_options
        ),
        "A security profile of it is switched off": any("unconfined" in option for option in held.security_options),
        "It shares a network with the host or another container": held.network in {"host", ""}
        or held.network.startswith("container:"),
        "The engine restarts it by itself": held.restarts not in {"", "no"},
        "Its log can fill the disk": not held.bounded_logs,
        "The engine's socket is mounted in it": any(mount.source.name in _ENGINE_SOCKETS for mount in held.mounts),
    }
    yield from (said for said, so in loose.items() if so)
    granted = {gpu.get("uuid") for gpu in health.get("gpus", [])}
    if extra := {device.rpartition("=")[2] for device in held.devices} - granted:
        yield f"It was given devices that the API does not tell of: {', '.join(sorted(extra))}"


def nothing_runs(name: str) -> Finding:
    """For a plugin without a container to be looked at."""
    return ok(name, "isolation", "no container")
