"""Docker's JSON as this project's words.

Newer and older engines leave fields out: each one may be missing or of another type.
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
    EngineInfo,
    ImageStatus,
)

State = Literal["created", "running", "paused", "exited", "dead", "removing"]
Health = Literal["none", "starting", "healthy", "unhealthy"]

_EXITED = re.compile(r"Exited \((-?\d+)\)")
_NO_LABELS = frozenset({"name", "image", "exitCode", "signal", "execID", "execDuration", "oldName"})
"""What an event mixes in among the labels."""


def container(answer: Any) -> ContainerStatus:
    """From `GET /containers/{id}/json`."""
    body = _mapping(answer)
    told = _mapping(body.get("State"))
    state = _state(told.get("Status"), running=told.get("Running") is True)
    over = state in OVER
    oom_killed = told.get("OOMKilled")
    return ContainerStatus(
        id=_text(body.get("Id")),
        name=_text(body.get("Name")).lstrip("/"),
        image_id=_text(body.get("Image")),
        labels=_labels(_mapping(body.get("Config")).get("Labels")),
        state=state,
        exit_code=_integer(told.get("ExitCode")) if over else None,
        oom_killed=oom_killed if isinstance(oom_killed, bool) else None,
        health=_health(_mapping(told.get("Health")).get("Status")),
        started_at=_time(told.get("StartedAt")),
        finished_at=_time(told.get("FinishedAt")),
        error=_text(told.get("Error")),
    )


def isolation(answer: Any) -> ContainerIsolation:
    """From `GET /containers/{id}/json`: its host configuration."""
    body = _mapping(answer)
    told = _mapping(body.get("HostConfig"))
    log = _mapping(_mapping(told.get("LogConfig")).get("Config"))
    nano_cpus = _integer(told.get("NanoCpus"))
    requests = told.get("DeviceRequests")
    return ContainerIsolation(
        user=_text(_mapping(body.get("Config")).get("User")),
        network=_text(told.get("NetworkMode")),
        read_only=told.get("ReadonlyRootfs") is True,
        privileged=told.get("Privileged") is not False,
        capabilities_dropped=_texts(told.get("CapDrop")),
        capabilities_added=_texts(told.get("CapAdd")),
        security_options=_texts(told.get("SecurityOpt")),
        memory=_limit(told.get("Memory")),
        memory_and_swap=_limit(told.get("MemorySwap")),
        pids=_limit(told.get("PidsLimit")),
        cpus=nano_cpus / 1e9 if nano_cpus else None,
        shm=_limit(told.get("ShmSize")),
        restarts=_text(_mapping(told.get("RestartPolicy")).get("Name")),
        bounded_logs=bool(log.get("max-size") and log.get("max-file")),
        mounts=tuple(
            BindMount(Path(_text(mount.get("Source"))), _text(mount.get("Destination")), read_only=not mount.get("RW"))
            for mount in map(_mapping, _list(body.get("Mounts")))
            if mount.get("Type") == "bind"
        ),
        devices=tuple(
            device for request in map(_mapping, _list(requests)) for device in _texts(request.get("DeviceIDs"))
        ),
    )


def listed(answer: Any) -> ContainerStatus | None:
    """From one entry of `GET /containers/json`, which says less than an inspection. None for what has no id."""
    body = _mapping(answer)
    if not _text(body.get("Id")):
        return None
    names = body.get("Names")
    status = _text(body.get("Status"))
    exited = _EXITED.match(status)
    return ContainerStatus(
        id=_text(body.get("Id")),
        name=_text(names[0]).lstrip("/") if isinstance(names, list) and names else "",
        image_id=_text(body.get("ImageID")),
        labels=_labels(body.get("Labels")),
        state=_state(body.get("State"), running=status.startswith("Up")),
        exit_code=int(exited[1]) if exited else None,
        health=_listed_health(status),
    )


def event(line: bytes) -> EngineEvent | None:
    """From one line of `GET /events`; None for what is no change of a container or cannot be read."""
    try:
        body = _mapping(json.loads(line))
    except (ValueError, RecursionError):
        return None
    actor = _mapping(body.get("Actor"))
    attributes = _labels(actor.get("Attributes"))
    action = _text(body.get("Action")) or _text(body.get("status"))
    container_id = _text(actor.get("ID")) or _text(body.get("id"))
    # Every probe of a health check makes three exec events. Nobody wants them.
    if body.get("Type", "container") != "container" or not action or not container_id or action.startswith("exec_"):
        return None
    return EngineEvent(
        action=action,
        container_id=container_id,
        labels={key: value for key, value in attributes.items() if key not in _NO_LABELS},
        time=_event_time(body),
        exit_code=_integer(attributes.get("exitCode")),
    )


def image(answer: Any) -> ImageStatus:
    """From `GET /images/{name}/json`, or an entry of `GET /images/json`."""
    body = _mapping(answer)
    tags = body.get("RepoTags")
    return ImageStatus(
        id=_text(body.get("Id")),
        # A list calls an image without a name <none>:<none>.
        tags=tuple(_text(tag) for tag in tags if tag != "<none>:<none>") if isinstance(tags, list) else (),
        labels=_labels(body.get("Labels") or _mapping(body.get("Config")).get("Labels")),
        created=_time(body.get("Created")),
    )


_LIMITS = {"memory": "MemoryLimit", "swap": "SwapLimit", "pids": "PidsLimit"}


def info(answer: Any) -> EngineInfo:
    """From `GET /info`.

    `gpu_drivers` is what the engine tells of itself. It registers `nvidia` for device requests when it finds
    nvidia-container-runtime-hook on its PATH, which the API does not show; the nvidia runtime, which usually is set up
    along with it, is shown. So a driver that is not listed here may still work, and only a start tells for certain.
    """
    body = _mapping(answer)
    options = body.get("SecurityOptions")
    security = {_text(option).split(",")[0] for option in options} if isinstance(options, list) else set()
    drivers = ("nvidia",) if "nvidia" in _mapping(body.get("Runtimes")) else ()
    return EngineInfo(
        version=_text(body.get("ServerVersion")),
        operating_system=_text(body.get("OperatingSystem")),
        storage_driver=_text(body.get("Driver")),
        cgroup_version=_text(body.get("CgroupVersion")),
        gpu_drivers=(*drivers, *(("cdi",) if _has_cdi(body) else ())),
        rootless="name=rootless" in security,
        selinux="name=selinux" in security,
        limits=frozenset(name for name, field in _LIMITS.items() if body.get(field) is not False),
        kernel=_text(body.get("KernelVersion")),
        data_dir=_text(body.get("DockerRootDir")),
    )


def _has_cdi(body: Mapping[str, Any]) -> bool:
    """Engines since 28.2 list the devices they found; 25 to 28.1 only say where they look, and only when CDI is on."""
    devices = body.get("DiscoveredDevices")
    if isinstance(devices, list):
        return any(_text(_mapping(device).get("ID")).startswith("nvidia.com/gpu") for device in devices)
    return bool(body.get("CDISpecDirs")) and "DiscoveredDevices" not in body


def _event_time(body: Mapping[str, Any]) -> datetime:
    nanoseconds, seconds = body.get("timeNano"), body.get("time")
    for told, unit in ((nanoseconds, 1e9), (seconds, 1)):
        if isinstance(told, int) and told > 0:
            try:
                return datetime.fromtimestamp(told / unit, UTC)
            except (OverflowError, ValueError, OSError):
                continue
    return datetime.now(UTC)


def _state(told: Any, *, running: bool) -> State:
    for state in get_args(State):
        if told == state:
            return state  # type: ignore[no-any-return]
    return "running" if running or told in ("restarting", "stopping") else "exited"


def _health(told: Any) -> Health:
    for health in get_args(Health):
        if told == health:
            return health  # type: ignore[no-any-return]
    return "none"


def _listed_health(status: str) -> Health:
    for words, health in (("(health: starting)", "starting"), ("(healthy)", "healthy"), ("(unhealthy)", "unhealthy")):
        if words in status:
            return _health(health)
    return "none"


def _time(told: Any) -> datetime | None:
    """Inspections write RFC 3339 and year 1 for never, lists write seconds."""
    try:
        if isinstance(told, int):
            return datetime.fromtimestamp(told, UTC)
        time = datetime.fromisoformat(_text(told))
    except (ValueError, OverflowError, OSError):
        return None
    return time if time.year > 1 else None


def _mapping(told: Any) -> Mapping[str, Any]:
    return told if isinstance(told, dict) else {}


def _labels(told: Any) -> dict[str, str]:
    return {key: value for key, value in _mapping(told).items() if isinstance(value, str)}


def _text(told: Any) -> str:
    return told if isinstance(told, str) else ""


def _integer(told: Any) -> int | None:
    try:
        return int(told)
    except (TypeError, ValueError):
        return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in _list(value) if isinstance(item, str))


def _limit(value: Any) -> int | None:
    """Docker writes 0 or -1 for no limit."""
    number = _integer(value)
    return number if number is not None and number > 0 else None
