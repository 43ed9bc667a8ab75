"""Who may open the device nodes: groups that containers with GPUs must be in."""

import os
from pathlib import Path

import pytest

from orchestrator.gpus.evidence import NodeAccess, read_node_access

GROUP = 44 if os.geteuid() == 0 else os.getgid()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "dev").mkdir()
    return tmp_path


def node(root: Path, name: str, mode: int, group: int = GROUP) -> None:
    path = root / "dev" / name
    path.touch()
    os.chown(path, -1, group)
    path.chmod(mode)


def test_nodes_for_everybody_need_no_group(root):
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        node(root, name, 0o666)
    assert read_node_access(root) == NodeAccess()


def test_the_group_of_nodes_that_are_closed_to_others_is_named_once(root):
    """SUSE, Gentoo, Jetson: 0660 root:video."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvhost-gpu", "nvmap"):
        node(root, name, 0o660)
    assert read_node_access(root) == NodeAccess((GROUP,))


def test_nodes_of_root_alone_are_closed(root):
    node(root, "nvidia0", 0o600)
    node(root, "nvidiactl", 0o666)
    assert read_node_access(root) == NodeAccess((), ("/dev/nvidia0",))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_nobody_is_put_into_the_group_of_root(root):
    node(root, "nvidia0", 0o660, group=0)
    assert read_node_access(root) == NodeAccess((), ("/dev/nvidia0",))


@pytest.mark.parametrize("name", ["sda", "nvidia-modeset", "nvidia-caps", "kvm"])
def test_other_nodes_do_not_count(root, name):
    node(root, name, 0o660)
    assert read_node_access(root) == NodeAccess()


def test_a_host_without_nodes_needs_none(tmp_path):
    assert read_node_access(tmp_path) == NodeAccess()
