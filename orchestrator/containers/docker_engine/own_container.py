"""The container that the orchestrator itself runs in, and the host's paths of the folders mounted there.

A file that an engine mounts may show the id of another container: with `network_mode: service:x` the hostname file is
that of `x`. So what a witness names is held against the mounts of this process.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.docker_engine import answers
from orchestrator.containers.docker_engine.answers import mapping, text
from orchestrator.containers.docker_engine.calls import EngineCalls
from orchestrator.containers.spec import BindMount
from orchestrator.errors import EngineRefusedError, NotFoundError

_PROC: Final = Path("/proc/self")
# Files that Docker and Podman mount into every container, from a folder named after the container's id.
_OWN_FILES: Final = re.compile(
    r"/(?:containers/([0-9a-f]{64})|[a-z0-9]+-containers/([0-9a-f]{64})/userdata)"
    r"/(?:hostname|hosts|resolv\.conf|\.containerenv) "
)
_CGROUP: Final = re.compile(
    r"(?:/docker/|/docker-|/libpod-|/crio-|/containerd/)([0-9a-f]{64})(?:\.scope|/|$)", re.MULTILINE
)
_LAYER: Final = re.compile(r"\bupperdir=([^,\s]+)")
# Mount points that every container has, or that a hook for GPUs adds: none of these is among the `Mounts` of an answer.
_ENGINES: Final = re.compile(
    r"/(?:$|proc|sys|dev|etc/(?:hosts|hostname|resolv\.conf)$|usr|lib|lib64|bin|sbin|run/(?:nvidia|\.containerenv|secrets))"
)
_PSEUDO: Final = frozenset({"tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2"})


@dataclass(frozen=True, slots=True)
class OwnView:
    """What this process sees of its container. `candidates`: ids or names that may be its own, the likeliest first."""

    candidates: tuple[str, ...] = ()
    mount_points: frozenset[Path] = frozenset()
    given: frozenset[Path] = frozenset()
    """Those of `mount_points` that are volumes or bind mounts which somebody asked for."""
    layer: str = ""
    """The writable layer of its root, where the storage driver has one; no two containers share it."""


@dataclass(frozen=True, slots=True)
class HostFolders:
    """Path in the orchestrator's own container → path on the engine's machine. None: the orchestrator runs on that
    machine, not in a container.
    """

    by_mount_point: Mapping[Path, Path] | None = None

    def translated(self, mounts: Iterable[BindMount]) -> tuple[BindMount, ...]:
        """The mounts by their host paths. Raises `EngineRefusedError` for a path that is not on the host."""
        if self.by_mount_point is None:
            return tuple(mounts)
        return tuple(replace(mount, source=_on_host(mount, self.by_mount_point)) for mount in mounts)

    def on_host(self, file: Path) -> Path:
        """One file's host path. Raises as `translated`."""
        return self.translated([BindMount(file, str(file))])[0].source


def own_view(proc: Path = _PROC, hostname: str = "") -> OwnView:
    """From this process's entries in /proc, and its host name. Without candidates outside of a container."""
    mountinfo, cgroup = _read(proc / "mountinfo"), _read(proc / "cgroup")
    files = [next(filter(None, found)) for found in _OWN_FILES.findall(mountinfo)]
    groups = _CGROUP.findall(cgroup)
    # A host name alone is no sign of a container: every machine has one.
    names = [hostname] if hostname and (files or groups) else []
    lines = [fields for line in mountinfo.splitlines() if len(fields := line.split(" ")) > 6 and "-" in fields]
    points = {Path(_unescaped(fields[4])): fields[fields.index("-") + 1] for fields in lines}
    layer = next((found[1] for line in lines if line[4] == "/" and (found := _LAYER.search(line[-1]))), "")
    return OwnView(
        candidates=tuple(dict.fromkeys([*files, *groups, *names])),
        mount_points=frozenset(points),
        given=frozenset(
            point for point, kind in points.items() if not _ENGINES.match(str(point)) and kind not in _PSEUDO
        ),
        layer=layer,
    )


def is_own(answer: Any, view: OwnView) -> bool | None:
    """Whether the container of this inspection (`GET /containers/{id}/json`) is the one seen in `view`. None: it may
    be, as far as its mounts tell.
    """
    layer = text(mapping(mapping(mapping(answer).get("GraphDriver")).get("Data")).get("UpperDir"))
    if layer and view.layer:
        # An engine may mount with paths relative to its own folder.
        return Path(layer).parts[-2:] == Path(view.layer).parts[-2:]
    there = _points(answer)
    if not there <= view.mount_points:
        return False
    return True if view.given and view.given <= there else None


def likeness(answer: Any, view: OwnView) -> int:
    """How many mounts this container, inspected or listed, has in common with the own one; -1 if it is another one."""
    there = _points(answer)
    return len(there) if there <= view.mount_points and is_own(answer, view) is not False else -1


async def find_host_folders(calls: EngineCalls, view: OwnView) -> HostFolders:
    """What is mounted from where, by the engine's account of the own container."""
    found = [answer for candidate in view.candidates if (answer := await _inspect(calls, candidate)) is not None]
    for answer in found:
        if is_own(answer, view):
            return host_folders(answer)
    if not found:  # a container of another engine, or none: this one's folders are those of this machine
        return HostFolders()
    # All that the witnesses name are others, or may be: the engine knows the mounts of all.
    listed = map(mapping, answers.items(await calls.query(lambda client: client.containers())))
    alike = [text(entry.get("Id")) for entry in listed if likeness(entry, view) > 0]
    found += [answer for container in alike if (answer := await _inspect(calls, container)) is not None]
    best = max(found, key=lambda answer: likeness(answer, view))
    return host_folders(best) if likeness(best, view) >= 0 else HostFolders({})


async def _inspect(calls: EngineCalls, container: str) -> Any:
    try:
        return await calls.query(lambda client: client.inspect_container(container))
    except NotFoundError:
        return None


def host_folders(answer: Any) -> HostFolders:
    """From the inspection of the orchestrator's own container."""
    return HostFolders(_mounted(answer))


def _points(answer: Any) -> set[Path]:
    # The kernel's mount points have no links, such as /var/run for /run.
    return {Path(os.path.realpath(point)) for point in _mounted(answer)}


def _mounted(answer: Any) -> dict[Path, Path]:
    # The engine knows what it mounted into a container and from where: any volume or bind mount, at any path.
    pairs = [
        (text(mount.get("Destination")), text(mount.get("Source")))
        for mount in map(mapping, answers.items(mapping(answer).get("Mounts")))
        if mount.get("Type") in {"bind", "volume"}
    ]
    return {Path(inside): Path(source) for inside, source in pairs if inside and source}


def _on_host(mount: BindMount, by_mount_point: Mapping[Path, Path]) -> Path:
    for folder in (mount.source, *mount.source.parents):
        if folder in by_mount_point:
            return by_mount_point[folder] / mount.source.relative_to(folder)
    raise EngineRefusedError(
        f"the source of the mount {mount.target} lies inside the orchestrator's own container, where no other container"
        " can see it. Mount it there from the host: ORCHESTRATOR_RUN_DIR, ORCHESTRATOR_PLUGINS_DIRS and"
        " ORCHESTRATOR_MODELS_DIR must be volumes or bind mounts"
    )


def _unescaped(text: str) -> str:
    # The kernel writes spaces and the like in a path as \040.
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
