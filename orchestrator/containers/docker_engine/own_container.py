"""Where the orchestrator itself runs in one of the engine's containers: its folders as the engine's machine names them.

What a plugin's container mounts is named by its path on that machine. The engine knows what it mounted into the
orchestrator's container and from where, so any volume or bind mount will do, at any path.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.spec import BindMount
from orchestrator.errors import EngineRefusedError

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_OWN_FILES: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
"""Files that Docker mounts into every container, from a folder that is named by the container's id."""


@dataclass(frozen=True, slots=True)
class HostFolders:
    """Folders of the engine's machine, by where they are seen here. None: here is that machine."""

    by_place: Mapping[Path, Path] | None = None

    def translated(self, mounts: Iterable[BindMount]) -> tuple[BindMount, ...]:
        """The mounts by their host paths. Raises `EngineRefusedError` for what the host does not have."""
        if self.by_place is None:
            return tuple(mounts)
        return tuple(replace(mount, source=_on_host(mount, self.by_place)) for mount in mounts)

    def on_host(self, file: Path) -> Path:
        """One of them. Raises as `translated` does."""
        return self.translated([BindMount(file, str(file))])[0].source


def _on_host(mount: BindMount, by_place: Mapping[Path, Path]) -> Path:
    for place in (mount.source, *mount.source.parents):
        if place in by_place:
            return by_place[place] / mount.source.relative_to(place)
    raise EngineRefusedError(
        f"what is to be mounted at {mount.target} lies inside the orchestrator's own container, where no other"
        " container can see it. Mount it there from the host: ORCHESTRATOR_RUN_DIR, ORCHESTRATOR_PLUGINS_DIRS and"
        " ORCHESTRATOR_MODELS_DIR must be volumes or bind mounts"
    )


def own_container_id(mountinfo: Path = _MOUNTINFO) -> str | None:
    """The id of the container that this process runs in; None outside of one."""
    try:
        found = _OWN_FILES.search(mountinfo.read_text())
    except OSError:
        return None
    return found[1] if found else None


def host_folders(answer: Any) -> HostFolders:
    """From what the engine says of the orchestrator's own container (`GET /containers/{id}/json`)."""
    mounts = answer.get("Mounts") if isinstance(answer, dict) else None
    pairs = [
        (mount.get("Destination"), mount.get("Source"))
        for mount in (mounts if isinstance(mounts, list) else [])
        if isinstance(mount, dict) and mount.get("Type") in {"bind", "volume"}
    ]
    return HostFolders({Path(place): Path(source) for place, source in pairs if place and source})
