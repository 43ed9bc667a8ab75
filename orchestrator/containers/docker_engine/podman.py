"""Podman's Docker API, where it is not as Docker's: what is sent to it, and what its answers leave open."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any, Final

from orchestrator.containers.docker_engine.answers import mapping, text
from orchestrator.containers.docker_engine.client import Client, engine_errors, raise_for_status
from orchestrator.containers.spec import ContainerIsolation, ContainerSpec, EngineInfo
from orchestrator.errors import DeviceRequestError, EngineRefusedError, NotFoundError

# It puts writable folders in memory there, in a container whose root is read-only. What the image has there is copied.
_ADDED_FOLDERS: Final = ("/run", "/var/tmp")  # noqa: S108
_READ_ONLY: Final = "ro,size=16m"
_LOOK: Final = ("cat", "/proc/1/status", "/proc/self/mountinfo")
_CAPABILITIES: Final = re.compile(r"Cap(?:Inh|Prm|Eff|Bnd|Amb):\s+[0-9a-f]+")
_OF_THE_KERNEL: Final = ("/proc", "/sys", "/dev")
HOST_PID: Final = "hpid"
"""Column of `top` for a process's number on the host; `pid` is the one inside the container."""
# Its own API beside Docker's; the version is the oldest that it still serves.
_LIBPOD_PREFIX: Final = "/v4.0.0/libpod"


def adapted(spec: ContainerSpec, info: EngineInfo) -> ContainerSpec:
    """`spec` as Podman needs it. Raises `DeviceRequestError` for devices that it would leave out silently."""
    devices = spec.devices
    if devices is not None and devices.driver not in info.gpu_drivers:
        raise DeviceRequestError(
            f"Podman {info.version} ignores device requests of the driver {devices.driver}, and would start the "
            "container without its GPU; Podman 5.4 and newer take those of CDI"
        )
    if not spec.read_only:
        return spec
    taken = {*spec.tmpfs, *(mount.target for mount in spec.mounts), *(volume.target for volume in spec.volumes)}
    closed = {folder: _READ_ONLY for folder in _ADDED_FOLDERS if folder not in taken}
    return replace(spec, tmpfs={**closed, **spec.tmpfs})


def isolation(client: Client, container_id: str, reported: ContainerIsolation) -> ContainerIsolation:
    """`reported` completed by what a process in the container sees, and by Podman's own API."""
    # Docker's API has the dropped capabilities by their names, which are never all, and nothing of the log's bound.
    seen = reported
    # It has not started, has ended, or its image has no `cat`: nothing is known then.
    with suppress(EngineRefusedError, NotFoundError), engine_errors():
        capabilities, writable = seen_inside(_output(client, container_id))
        seen = replace(reported, capabilities=capabilities, writable=writable)
    return replace(seen, bounded_logs=_log_is_bounded(_libpod_inspection(client, container_id)))


def seen_inside(output: str) -> tuple[int | None, tuple[str, ...]]:
    """The mask of capabilities that a process could have, None where it is not shown, and the mount points of writable
    folders in memory. From /proc/1/status, then /proc/self/mountinfo.
    """
    lines = output.splitlines()
    masks = [int(line.split()[1], 16) for line in lines if _CAPABILITIES.fullmatch(line)]
    folders = tuple(folder for line in lines if (folder := _writable_folder(line)) is not None)
    return (reduce(or_, masks) if masks else None), folders


def _writable_folder(line: str) -> str | None:
    # 238 235 0:71 / /run rw,nosuid,nodev - tmpfs tmpfs rw,size=4k
    mount, separator, kind = line.partition(" - ")
    fields = mount.split(" ")
    if not separator or len(fields) < 6 or not kind.startswith("tmpfs "):
        return None
    point, options = fields[4], fields[5].split(",")
    inside_kernel = any(point == folder or point.startswith(f"{folder}/") for folder in _OF_THE_KERNEL)
    return point if "rw" in options and not inside_kernel else None


def _output(client: Client, container_id: str) -> str:
    command = client.exec_create(container_id, list(_LOOK))
    return bytes(client.exec_start(text(command.get("Id")))).decode("utf-8", "replace")


def _libpod_inspection(client: Client, container_id: str) -> Mapping[str, Any]:
    response = client.get(f"{client.base_url}{_LIBPOD_PREFIX}/containers/{container_id}/json", timeout=client.timeout)
    raise_for_status(response)
    return mapping(response.json())


def _log_is_bounded(inspection: Mapping[str, Any]) -> bool:
    log = mapping(mapping(inspection.get("HostConfig")).get("LogConfig"))
    return text(log.get("Size")) not in {"", "0", "0B", "-1"} and text(log.get("Type")) in {"json-file", "k8s-file"}
