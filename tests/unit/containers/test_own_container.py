"""An orchestrator in one of the engine's containers translates its folders to the engine's machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.containers.docker_engine.own_container import (
    HostFolders,
    OwnView,
    find_host_folders,
    host_folders,
    is_own,
    own_view,
)
from orchestrator.containers.spec import BindMount
from orchestrator.errors import EngineRefusedError, NotFoundError

ID = "5f" * 32
OTHER = "a0" * 32
MOUNTINFO = f"""\
612 611 0:57 / / ro,relatime - overlay overlay rw
640 612 8:1 /var/lib/docker/volumes/run/_data /run/plugin-orchestrator rw,relatime - ext4 /dev/vda1 rw
641 612 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw
"""
PODMAN = (
    "/containers/storage/overlay-containers",  # in /run, or /var/lib
    "/storage/overlay-containers",  # on a file system of its own
    "/containers/overlay-containers",  # rootless, in $XDG_RUNTIME_DIR
    "/containers/storage/vfs-containers",
)
"""Where Podman has what it mounts into a container."""
ANSWER = {
    "Mounts": [
        {"Type": "volume", "Name": "run", "Source": "/docker/volumes/run/_data", "Destination": "/run/orchestrator"},
        {"Type": "bind", "Source": "/srv/plugins", "Destination": "/plugins"},
        {"Type": "bind", "Source": "/srv/models", "Destination": "/plugins/ocr/models"},
        {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
        {"Type": "bind"},
        "nonsense",
    ]
}


@pytest.mark.parametrize(
    ("inside", "host"),
    [
        ("/run/orchestrator/ab12", "/docker/volumes/run/_data/ab12"),
        ("/plugins/reader/model.bin", "/srv/plugins/reader/model.bin"),
        ("/plugins/ocr/models/eng.bin", "/srv/models/eng.bin"),
        ("/plugins", "/srv/plugins"),
    ],
)
def test_a_mounted_path_is_translated_to_the_hosts(inside: str, host: str) -> None:
    (mount,) = host_folders(ANSWER).translated([BindMount(Path(inside), "/somewhere", read_only=False)])
    assert mount == BindMount(Path(host), "/somewhere", read_only=False)


@pytest.mark.parametrize("inside", ["/elsewhere/model.bin", "/tmp/x", "/plugins-too/x"])
@pytest.mark.parametrize("answer", [ANSWER, {}, None])
def test_a_path_that_is_not_on_the_host_is_refused_with_what_to_do(inside: str, answer: object) -> None:
    """Otherwise the engine would mount an empty folder, or another one."""
    with pytest.raises(EngineRefusedError, match=r"/models/m .*ORCHESTRATOR_RUN_DIR") as refused:
        host_folders(answer).translated([BindMount(Path(inside), "/models/m")])
    assert inside not in str(refused.value)


def test_outside_of_a_container_no_path_changes() -> None:
    mounts = (BindMount(Path("/any"), "/target"),)
    assert HostFolders().translated(mounts) == mounts


def proc(folder: Path, mountinfo: str, cgroup: str = "") -> Path:
    """Its /proc/self."""
    (folder / "mountinfo").write_text(mountinfo)
    (folder / "cgroup").write_text(cgroup)
    return folder


def seen(folder: Path, witness: str = ID, *mount_points: str, layer: str = "") -> OwnView:
    """The view from a container whose hostname file is that of the container `witness`."""
    upper = f",upperdir=/var/lib/docker/overlay2/{layer}/diff" if layer else ""
    lines = [f"612 611 0:57 / / ro,relatime - overlay overlay rw,lowerdir=/l{upper},workdir=/w"]
    lines += [f"640 612 8:1 /srv{point} {point} rw - ext4 /dev/vda1 rw" for point in mount_points]
    lines += [f"641 612 8:1 /var/lib/docker/containers/{witness}/hostname /etc/hostname rw - ext4 /dev/vda1 rw"]
    lines += ["642 612 0:60 / /dev/shm rw - tmpfs shm rw", "643 612 8:1 /x /usr/bin/nvidia-smi ro - ext4 /dev/vda1 rw"]
    return own_view(proc(folder, "\n".join(lines) + "\n"))


def inspected(*mount_points: str, id_: str = ID, layer: str = "", source: str = "/srv") -> dict[str, Any]:
    mounts = [{"Type": "bind", "Source": f"{source}{point}", "Destination": point} for point in mount_points]
    data = {"GraphDriver": {"Data": {"UpperDir": f"/var/lib/docker/overlay2/{layer}/diff"}}} if layer else {}
    return {"Id": id_, "Mounts": mounts, **data}


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "hostname", "candidates"),
    [
        (MOUNTINFO, "", "", (ID,)),
        (MOUNTINFO, f"4:memory:/docker/{OTHER}\n0::/\n", "5f5f", (ID, OTHER, "5f5f")),
        *(
            (f"256 235 0:78 {root}/{ID}/userdata/{file} /x ro - tmpfs tmpfs rw\n", "", "", (ID,))
            for root in PODMAN
            for file in ("hostname", ".containerenv")
        ),
        ("", f"0::/system.slice/docker-{ID}.scope\n", "", (ID,)),
        ("", f"0::/machine.slice/libpod-{ID}.scope/container\n", "", (ID,)),
        ("", f"9:pids:/user.slice/user-1000.slice/x/docker/{ID}/init\n", "", (ID,)),
        ("22 1 8:1 / / rw - ext4 /dev/vda1 rw\n", "0::/user.slice\n", "machine", ()),
        ("", "", "machine", ()),
        ("nonsense\n", "nonsense", "", ()),
    ],
)
def test_what_the_own_container_may_be(
    tmp_path: Path, mountinfo: str, cgroup: str, hostname: str, candidates: tuple[str, ...]
) -> None:
    assert own_view(proc(tmp_path, mountinfo, cgroup), hostname).candidates == candidates


def test_without_proc_there_is_no_container(tmp_path: Path) -> None:
    assert own_view(tmp_path / "none") == OwnView()


def test_mount_points_are_those_that_were_asked_for(tmp_path: Path) -> None:
    view = seen(tmp_path, ID, "/run/plugin-orchestrator", "/with\\040space")
    assert view.given == {Path("/run/plugin-orchestrator"), Path("/with space")}


@pytest.mark.parametrize(
    ("answer", "own"),
    [
        (inspected("/run/o", "/state"), True),
        (inspected("/run/o"), None),  # another one could have the same mount
        (inspected(), None),
        (inspected("/gluetun"), False),
        (inspected("/run/o", "/state", "/gluetun"), False),
    ],
)
def test_a_container_with_other_mounts_is_not_the_own_one(
    tmp_path: Path, answer: dict[str, Any], own: bool | None
) -> None:
    assert is_own(answer, seen(tmp_path, ID, "/run/o", "/state")) is own


def test_the_writable_layer_decides_where_the_engine_tells_it(tmp_path: Path) -> None:
    view = seen(tmp_path, ID, "/run/o", layer="ab12")
    assert is_own(inspected(layer="ab12"), view) is True
    assert is_own(inspected("/run/o", layer="cd34"), view) is False


def test_a_mount_point_below_a_link_is_the_same(tmp_path: Path) -> None:
    """As /var/run/docker.sock, which the kernel lists as /run/docker.sock."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    view = seen(tmp_path, ID, f"{tmp_path}/run/sock")
    assert is_own(inspected(f"{tmp_path}/link/sock"), view) is True


# With `network_mode: service:vpn` the hostname file is the VPN's.
VPN = "7e" * 32


class Containers:
    """An engine's answers to the two queries."""

    def __init__(self, *containers: dict[str, Any]) -> None:
        self.by_id = {container["Id"]: container for container in containers}
        self.inspected: list[str] = []

    async def query(self, function: Callable[[Any], Any]) -> Any:
        return function(self)

    def containers(self) -> list[dict[str, Any]]:
        return [{"Id": each["Id"], "Mounts": each["Mounts"]} for each in self.by_id.values()]

    def inspect_container(self, container: str) -> dict[str, Any]:
        self.inspected.append(container)
        if container not in self.by_id:
            raise NotFoundError("no such container")
        return self.by_id[container]


@pytest.mark.parametrize("vpns_mounts", [(), ("/gluetun",), ("/run/o",)])
@pytest.mark.parametrize("layers", [("", ""), ("ab", "cd")])
async def test_the_container_of_the_network_is_not_taken_for_the_own_one(
    tmp_path: Path, vpns_mounts: tuple[str, ...], layers: tuple[str, str]
) -> None:
    containers = Containers(
        inspected(*vpns_mounts, id_=VPN, layer=layers[0], source="/of-vpn"),
        inspected("/run/o", "/state", layer=layers[1]),
        inspected("/else", id_="9" * 64),
    )
    view = seen(tmp_path, VPN, "/run/o", "/state", layer=layers[1])
    folders = await find_host_folders(containers, view)  # type: ignore[arg-type]
    assert folders.by_mount_point == {Path("/run/o"): Path("/srv/run/o"), Path("/state"): Path("/srv/state")}


async def test_one_that_is_sure_needs_no_list(tmp_path: Path) -> None:
    containers = Containers(inspected("/run/o"), inspected("/run/o", id_=VPN))
    folders = await find_host_folders(containers, seen(tmp_path, ID, "/run/o"))  # type: ignore[arg-type]
    assert folders.by_mount_point == {Path("/run/o"): Path("/srv/run/o")}
    assert containers.inspected == [ID]


async def test_a_container_of_another_engine_shares_this_ones_paths(tmp_path: Path) -> None:
    """The engine runs inside it too: whatever else it runs there is another container."""
    containers = Containers(inspected("/run/o", id_=VPN))
    folders = await find_host_folders(containers, seen(tmp_path, ID, "/run/o"))  # type: ignore[arg-type]
    assert folders.by_mount_point is None


async def test_where_all_are_others_no_path_is_translated(tmp_path: Path) -> None:
    containers = Containers(inspected("/gluetun", id_=VPN))
    folders = await find_host_folders(containers, seen(tmp_path, VPN, "/run/o"))  # type: ignore[arg-type]
    with pytest.raises(EngineRefusedError, match="ORCHESTRATOR_RUN_DIR"):
        folders.translated([BindMount(Path("/run/o/x"), "/run/plugin")])
