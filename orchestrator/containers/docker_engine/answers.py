"""The engine's JSON answers as the types of `containers.spec`.

Engines differ by version and kind: any field may be missing or of another type.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from orchestrator.containers.spec import (
    OVER,
    BindMount,
    ContainerIsolation,
    ContainerStatus,
    EngineEvent,
    ImageStatus,
    VolumeStatus,
)

State = Literal["created", "running", "paused", "exited", "dead", "removing"]
Health = Literal["none", "starting", "healthy", "unhealthy"]

_DEFAULT_REGISTRY = re.compile(r"^(?:docker\.io/(?:library/)?|localhost/)(?=[^/])")
_EXITED = re.compile(r"Exited \((-?\d+)\)")
_UNTAGGED = "<none>:<none>"
# Podman's word → Docker's.
_ACTIONS = {"remove": "destroy"}
# Attributes of an event that are no labels.
_NO_LABELS = frozenset({"name", "image", "exitCode", "signal", "execID", "execDuration", "oldName"})


def container(answer: Any) -> ContainerStatus:
    """From `GET /containers/{id}/json`."""
    body = mapping(answer)
    current = mapping(body.get("State"))
    state = _state(current.get("Status"), running=current.get("Running") is True)
    over = state in OVER
    oom_killed = current.get("OOMKilled")
    return ContainerStatus(
        id=text(body.get("Id")),
        name=text(body.get("Name")).lstrip("/"),
        image_id=text(body.get("Image")),
        labels=_labels(mapping(body.get("Config")).get("Labels")),
        state=state,
        exit_code=_integer(current.get("ExitCode")) if over else None,
        oom_killed=oom_killed if isinstance(oom_killed, bool) else None,
        health=_health(mapping(current.get("Health")).get("Status")),
        started_at=_time(current.get("StartedAt")),
        finished_at=_time(current.get("FinishedAt")),
        error=text(current.get("Error")),
    )


def carries(labels: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    """Whether something with these labels has all that are wanted; None: with any value."""
    # Not left to the engine's filters: Podman lets pass what has any one of several labels, in its events.
    return all(labels.get(name) == value or (value is None and name in labels) for name, value in wanted.items())


def labels_of(answer: Any) -> dict[str, str]:
    """The labels of a volume, or of an entry of a list."""
    return _labels(mapping(answer).get("Labels"))


def volumes(answer: Any) -> tuple[VolumeStatus, ...]:
    """From `GET /volumes`; without their sizes."""
    listed = map(mapping, items(mapping(answer).get("Volumes")))
    return tuple(VolumeStatus(text(entry.get("Name")), _labels(entry.get("Labels"))) for entry in listed)


def volume_sizes(answer: Any) -> dict[str, int]:
    """By name, from `GET /system/df`; without those that the engine has not measured."""
    listed = map(mapping, items(mapping(answer).get("Volumes")))
    sizes = {text(entry.get("Name")): _integer(mapping(entry.get("UsageData")).get("Size")) for entry in listed}
    return {name: size for name, size in sizes.items() if size is not None and size >= 0}


def isolation(answer: Any) -> ContainerIsolation:
    """The host configuration in `GET /containers/{id}/json`."""
    body = mapping(answer)
    host = mapping(body.get("HostConfig"))
    log = mapping(mapping(host.get("LogConfig")).get("Config"))
    nano_cpus = _integer(host.get("NanoCpus"))
    requests = host.get("DeviceRequests")
    variables = dict(entry.partition("=")[::2] for entry in texts(mapping(body.get("Config")).get("Env")))
    return ContainerIsolation(
        user=text(mapping(body.get("Config")).get("User")),
        network=text(host.get("NetworkMode")),
        read_only=host.get("ReadonlyRootfs") is True,
        # What an engine leaves out counts as the worst: an audit relies on this.
        privileged=host.get("Privileged") is not False,
        capabilities_dropped=texts(host.get("CapDrop")),
        capabilities_added=texts(host.get("CapAdd")),
        security_options=texts(host.get("SecurityOpt")),
        memory=_limit(host.get("Memory")),
        memory_and_swap=_limit(host.get("MemorySwap")),
        pids=_limit(host.get("PidsLimit")),
        cpus=nano_cpus / 1e9 if nano_cpus else None,
        shm=_limit(host.get("ShmSize")),
        restarts=text(mapping(host.get("RestartPolicy")).get("Name")),
        bounded_logs=bool(log.get("max-size") and log.get("max-file")),
        mounts=tuple(
            BindMount(Path(text(mount.get("Source"))), text(mount.get("Destination")), read_only=not mount.get("RW"))
            for mount in map(mapping, items(body.get("Mounts")))
            if mount.get("Type") == "bind"
        ),
        devices=tuple(
            device for request in map(mapping, items(requests)) for device in texts(request.get("DeviceIDs"))
        ),
        runtime=text(host.get("Runtime")),
        visible_gpus=variables.get("NVIDIA_VISIBLE_DEVICES", "void"),
        cuda_gpus=frozenset(variables.get("CUDA_VISIBLE_DEVICES", "").split(",")) - {""},
    )


def listed(answer: Any) -> ContainerStatus | None:
    """From one entry of `GET /containers/json`, which has fewer facts than an inspection. None without an id."""
    body = mapping(answer)
    if not text(body.get("Id")):
        return None
    names = body.get("Names")
    status = text(body.get("Status"))
    exited = _EXITED.match(status)
    return ContainerStatus(
        id=text(body.get("Id")),
        name=text(names[0]).lstrip("/") if isinstance(names, list) and names else "",
        image_id=text(body.get("ImageID")),
        labels=_labels(body.get("Labels")),
        state=_state(body.get("State"), running=status.startswith("Up")),
        exit_code=int(exited[1]) if exited else None,
        health=_listed_health(status),
    )


def event(line: bytes) -> EngineEvent | None:
    """From one line of `GET /events`; None for anything but a readable change of a container."""
    try:
        body = mapping(json.loads(line))
    except (ValueError, RecursionError):
        return None
    actor = mapping(body.get("Actor"))
    attributes = _labels(actor.get("Attributes"))
    action = text(body.get("Action")) or text(body.get("status"))
    container_id = text(actor.get("ID")) or text(body.get("id"))
    # Every probe of a health check causes three exec events, which nobody needs.
    if body.get("Type", "container") != "container" or not action or not container_id or action.startswith("exec_"):
        return None
    return EngineEvent(
        action=_ACTIONS.get(action, action),
        container_id=container_id,
        labels={key: value for key, value in attributes.items() if key not in _NO_LABELS},
        time=_event_time(body),
        exit_code=_integer(attributes.get("exitCode")),
    )


def image(answer: Any) -> ImageStatus:
    """From `GET /images/{name}/json`, or an entry of `GET /images/json`."""
    body = mapping(answer)
    return ImageStatus(
        id=text(body.get("Id")),
        # Lists name an untagged image <none>:<none>. Podman puts a registry before every name.
        tags=tuple(_DEFAULT_REGISTRY.sub("", tag, count=1) for tag in texts(body.get("RepoTags")) if tag != _UNTAGGED),
        labels=_labels(body.get("Labels") or mapping(body.get("Config")).get("Labels")),
        created=_time(body.get("Created")),
    )


def _event_time(body: Mapping[str, Any]) -> datetime:
    nanoseconds, seconds = body.get("timeNano"), body.get("time")
    for number, unit in ((nanoseconds, 1e9), (seconds, 1)):
        if isinstance(number, int) and number > 0:
            try:
                return datetime.fromtimestamp(number / unit, UTC)
            except (OverflowError, ValueError, OSError):
                continue
    return datetime.now(UTC)


def _state(value: Any, *, running: bool) -> State:
    for state in get_args(State):
        if value == state:
            return state  # type: ignore[no-any-return]
    return "running" if running or value in ("restarting", "stopping") else "exited"


def _health(value: Any) -> Health:
    for health in get_args(Health):
        if value == health:
            return health  # type: ignore[no-any-return]
    return "none"


def _listed_health(status: str) -> Health:
    for words, health in (("(health: starting)", "starting"), ("(healthy)", "healthy"), ("(unhealthy)", "unhealthy")):
        if words in status:
            return _health(health)
    return "none"


def _time(value: Any) -> datetime | None:
    # Inspections have RFC 3339, with year 1 for never; lists have seconds.
    try:
        if isinstance(value, int):
            return datetime.fromtimestamp(value, UTC)
        time = datetime.fromisoformat(text(value))
    except (ValueError, OverflowError, OSError):
        return None
    return time if time.year > 1 else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or an empty mapping where it is of another type; likewise below."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in items(value) if isinstance(item, str))


def _labels(value: Any) -> dict[str, str]:
    return {key: value for key, value in mapping(value).items() if isinstance(value, str)}


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _limit(value: Any) -> int | None:
    # Docker writes 0 or -1 for no limit.
    number = _integer(value)
    return number if number is not None and number > 0 else None


def processes(answer: Any) -> frozenset[int]:
    """From `GET /containers/{id}/top`: the processes' numbers on the host."""
    titles = [text(title) for title in items(mapping(answer).get("Titles"))]
    column = next((titles.index(name) for name in ("HPID", "PID") if name in titles), None)
    rows = items(mapping(answer).get("Processes"))
    if column is None:
        return frozenset()
    numbers = (text(row[column]).strip() for row in rows if isinstance(row, list) and len(row) > column)
    return frozenset(int(number) for number in numbers if number.isdigit())
