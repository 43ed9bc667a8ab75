"""An orchestrator in one of the engine's containers translates its folders to the engine's machine."""

from pathlib import Path

import pytest

from orchestrator.containers.docker_engine.capabilities import HostFolders, host_folders, own_container_id
from orchestrator.containers.spec import BindMount
from orchestrator.errors import EngineRefusedError

ID = "5f" * 32
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
    ("seen", "host"),
    [
        ("/run/orchestrator/ab12", "/docker/volumes/run/_data/ab12"),
        ("/plugins/reader/model.bin", "/srv/plugins/reader/model.bin"),
        ("/plugins/ocr/models/eng.bin", "/srv/models/eng.bin"),
        ("/plugins", "/srv/plugins"),
    ],
)
def test_a_mounted_path_is_translated_to_the_hosts(seen: str, host: str) -> None:
    (mount,) = host_folders(ANSWER).translated([BindMount(Path(seen), "/somewhere", read_only=False)])
    assert mount == BindMount(Path(host), "/somewhere", read_only=False)


@pytest.mark.parametrize("seen", ["/elsewhere/model.bin", "/tmp/x", "/plugins-too/x"])
@pytest.mark.parametrize("answer", [ANSWER, {}, None])
def test_a_path_that_is_not_on_the_host_is_refused_with_what_to_do(seen: str, answer: object) -> None:
    """Otherwise the engine would mount an empty folder, or another one."""
    with pytest.raises(EngineRefusedError, match=r"/models/m .*ORCHESTRATOR_RUN_DIR") as refused:
        host_folders(answer).translated([BindMount(Path(seen), "/models/m")])
    assert seen not in str(refused.value)


def test_outside_of_a_container_no_path_changes() -> None:
    mounts = (BindMount(Path("/any"), "/target"),)
    assert HostFolders().translated(mounts) == mounts


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        (MOUNTINFO, ID),
        *((f"256 235 0:78 {root}/{ID}/userdata/hostname /etc/hostname ro - tmpfs tmpfs rw\n", ID) for root in PODMAN),
        ("22 1 8:1 / / rw - ext4 /dev/vda1 rw\n", None),
        ("", None),
    ],
)
def test_the_own_container_is_recognised_by_the_files_that_docker_mounts(
    tmp_path: Path, mountinfo: str, expected: str | None
) -> None:
    (tmp_path / "mountinfo").write_text(mountinfo)
    assert own_container_id(tmp_path / "mountinfo") == expected


def test_without_mountinfo_there_is_no_container(tmp_path: Path) -> None:
    assert own_container_id(tmp_path / "mountinfo") is None
