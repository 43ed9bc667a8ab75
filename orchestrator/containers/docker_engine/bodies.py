"""Requests to the engine, as Docker's JSON.

A container's isolation is set here, the same for every container; no specification can loosen it.
"""

from datetime import datetime
from math import ceil
from typing import Any

from orchestrator.containers.spec import BindMount, ContainerSpec, DeviceGrant, Volume

# The same in every container: Docker's default, the container's id, would disclose where it runs.
HOSTNAME = "plugin"

_LOG_FILES = 2
_MIN_LOG_BYTES = 16 * 1024


def create_body(spec: ContainerSpec, *, selinux: bool) -> dict[str, Any]:
    """The body of `POST /containers/create`."""
    return {
        "Image": spec.image,
        "Hostname": HOSTNAME,
        "Domainname": "",
        "User": spec.user,
        "Env": [f"{name}={value}" for name, value in {**spec.environment, **gpu_variables(spec.devices)}.items()],
        "Labels": dict(spec.labels),
        "Volumes": {volume.target: {} for volume in spec.volumes if _is_plain(volume)},
        # With a terminal, stdout and stderr come as one stream without the frames that `decoding` reads.
        "Tty": False,
        "OpenStdin": False,
        **({"Entrypoint": list(spec.entrypoint)} if spec.entrypoint else {}),
        **({"Cmd": list(spec.command)} if spec.command else {}),
        "HostConfig": _host_config(spec, selinux=selinux),
    }


def gpu_variables(devices: DeviceGrant | None) -> dict[str, str]:
    """Variables that hold a container to its GPUs, or to none."""
    # Images may demand all GPUs by this variable, as NVIDIA's do, and a runtime `nvidia` that is the engine's default
    # gives them what it says. With CDI it must not give any beside those of the request.
    if devices is None:
        return {"NVIDIA_VISIBLE_DEVICES": "void"}
    variables = {"NVIDIA_VISIBLE_DEVICES": "void" if devices.driver == "cdi" else ",".join(devices.device_ids)}
    if devices.driver != "cdi":
        variables["NVIDIA_DRIVER_CAPABILITIES"] = ",".join(each for each in devices.capabilities if each != "gpu")
    if devices.uuids:
        # Under WSL2 every GPU of the host is in every container; CUDA itself still honours this.
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(devices.uuids)
    return variables


def events_query(labels: dict[str, str], since: datetime | None) -> dict[str, Any]:
    """Query of `GET /events`."""
    query: dict[str, Any] = {"filters": {"type": ["container"], "label": label_filter(labels)}}
    if since is not None:
        query["since"] = f"{since.timestamp():.9f}"
    return query


def label_filter(labels: dict[str, str]) -> list[str]:
    """Labels in the form of Docker's filters."""
    return [f"{name}={value}" for name, value in labels.items()]


def log_config(max_bytes: int) -> dict[str, Any]:
    """Where the engine stores at most so much output. Its default may be without a bound, or not be readable."""
    size = max(max_bytes // _LOG_FILES, _MIN_LOG_BYTES)
    return {"Type": "json-file", "Config": {"max-size": str(size), "max-file": str(_LOG_FILES)}}


def whole_seconds(grace: float) -> int:
    """A grace in whole seconds, rounded up, as Docker counts it."""
    return max(0, ceil(grace))


def _host_config(spec: ContainerSpec, *, selinux: bool) -> dict[str, Any]:
    memory = 0 if "memory" in spec.unlimited else spec.memory
    return {
        "Memory": memory,
        "MemorySwap": -1 if "swap" in spec.unlimited else memory,  # both together: no swap beyond the limit
        "OomKillDisable": False,
        "PidsLimit": 0 if "pids" in spec.unlimited else spec.pids,  # not -1, which crun would write down as it is
        **({"NanoCpus": round(spec.cpus * 1e9)} if spec.cpus is not None else {}),
        "ShmSize": spec.shm,
        "NetworkMode": spec.network,
        # A /dev/shm of its own, whatever the daemon's default is.
        "IpcMode": "private",
        "ReadonlyRootfs": spec.read_only,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        # The runtime's supervisor is process 1 and reaps.
        "Init": False,
        # Nothing recovers by itself (decision 5 in orchestrator/README.md), and evidence is read after the end.
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "LogConfig": log_config(spec.log_bytes),
        "Tmpfs": dict(spec.tmpfs),
        **_devices(spec.devices),
        **_mounts(spec, selinux=selinux),
    }


def quota_options(size: int) -> dict[str, str]:
    """Options of Docker's `local` driver that hold a volume to so many bytes."""
    return {"size": str(size)}


def _is_plain(volume: Volume) -> bool:
    return not volume.name and volume.size is None


def _mounts(spec: ContainerSpec, *, selinux: bool) -> dict[str, Any]:
    volumes = [_volume(volume) for volume in spec.volumes if not _is_plain(volume)]
    # With Mounts a missing source is an error; Binds would create it, owned by root. But only Binds can be relabelled.
    if selinux:
        binds = [f"{mount.source}:{mount.target}:{_bind_options(mount)}" for mount in spec.mounts]
        return {"Binds": binds, **({"Mounts": volumes} if volumes else {})}
    return {
        "Mounts": [
            *(
                {"Type": "bind", "Source": str(mount.source), "Target": mount.target, "ReadOnly": mount.read_only}
                for mount in spec.mounts
            ),
            *volumes,
        ]
    }


def _volume(volume: Volume) -> dict[str, Any]:
    options: dict[str, Any] = {"Labels": dict(volume.labels)} if volume.labels else {}
    if volume.size is not None:
        options["DriverConfig"] = {"Name": "local", "Options": quota_options(volume.size)}
    source = {"Source": volume.name} if volume.name else {}
    return {"Type": "volume", **source, "Target": volume.target, "VolumeOptions": options}


def _bind_options(mount: BindMount) -> str:
    # Several containers may read (label `z`); a writable folder belongs to one (`Z`).
    return "ro,z" if mount.read_only else "rw,Z"


def _devices(devices: DeviceGrant | None) -> dict[str, Any]:
    if devices is None:
        return {"DeviceRequests": []}
    groups = {"GroupAdd": [str(group) for group in devices.groups]} if devices.groups else {}
    if devices.driver == "runtime":
        return {"DeviceRequests": [], "Runtime": "nvidia", **groups}
    request: dict[str, Any] = {"Driver": devices.driver, "DeviceIDs": list(devices.device_ids)}
    if devices.driver != "cdi":
        request["Capabilities"] = [list(devices.capabilities)]
    return {"DeviceRequests": [request], **groups}


def log_query(tail: int) -> dict[str, str]:
    """Query for the last `tail` lines of a container's log, each with its time."""
    return {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": str(tail)}
