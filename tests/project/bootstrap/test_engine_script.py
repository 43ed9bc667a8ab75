"""`make engine` on machines where there is no engine to use: what it says, and how soon. Its tools are stand-ins."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkout import PROJECT

SCRIPT = PROJECT / "plugin-images" / "bootstrap" / "engine"
NO_ENGINE = "echo 'Cannot connect to the Docker daemon' >&2; exit 1"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may take the lock of what starts an engine")

Machine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Runs the script where each of these tools is a shell script of these lines."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    tools.mkdir()
    home.mkdir()

    def run(environment: dict[str, str] | None = None, **scripts: str) -> "subprocess.CompletedProcess[str]":
        for name, lines in {"docker": NO_ENGINE, "dockerd": "exit 1", **scripts}.items():
            tool = tools / name
            tool.write_text(f"#!/bin/bash\n{lines}\n")
            tool.chmod(0o755)
        return subprocess.run(
            ["bash", str(SCRIPT)],
            env={"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
            | (environment or {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def failing_service(*log: str, state: str = "failed") -> dict[str, str]:
    """systemd, with a docker.service that fails at once."""
    systemctl = f'case "$1 $2" in "start docker") exit 1 ;; "show --property=ActiveState") echo {state} ;; esac'
    return {"systemctl": systemctl, "journalctl": "\n".join(f"echo {json.dumps(line)}" for line in log) or "exit 1"}


@AS_ROOT
@pytest.mark.parametrize(
    ("log", "remedy"),
    [
        ("failed to create NAT chain DOCKER: iptables failed: nf_tables", "update-alternatives --set iptables"),
        ("unable to configure the Docker daemon with file /etc/docker/daemon.json: invalid", "daemon.json is wrong"),
        ("write /var/lib/docker/x: no space left on device", "the disk is full"),
        ("failed to dial /run/containerd/containerd.sock: connection refused", "journalctl -u containerd"),
        ("something else", "fix what the log names"),
    ],
)
@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_a_service_that_fails_says_why_at_once(machine: Machine, log: str, remedy: str, state: str) -> None:
    began = time.monotonic()
    done = machine(**failing_service(log, state=state))
    assert time.monotonic() - began < 30  # of the 60 s that one which starts may take
    assert done.returncode == 1
    assert log in done.stderr and remedy in done.stderr and "the docker service did not start" in done.stderr


@AS_ROOT
def test_a_service_that_systemd_starts_again_is_waited_for(machine: Machine, tmp_path: Path) -> None:
    looks = tmp_path / "looks"
    systemctl = f"""case "$1 $2" in
        "start docker") exit 1 ;;
        "show --property=ActiveState") echo x >> {looks}; echo activating ;;
    esac"""
    done = machine(systemctl=systemctl, docker=f"[ $(cat {looks} 2>/dev/null | wc -l) -ge 2 ] && echo 28.0.0")
    assert done.returncode == 0, done.stderr


@AS_ROOT
def test_without_a_journal_it_is_the_status(machine: Machine) -> None:
    tools = failing_service()
    tools["systemctl"] += '\ncase "$*" in *"status docker"*) echo "iptables: no chain" ;; esac'
    done = machine(**tools)
    assert "iptables: no chain" in done.stderr and "iptables-legacy" in done.stderr


def as_user(**scripts: str) -> dict[str, str]:
    return {"id": '[ "$1" = -u ] && echo 1000 || echo ada', **scripts}


def a_socket(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


@pytest.mark.parametrize("name", ["docker.sock", "podman/podman.sock"])
def test_a_user_is_told_of_a_rootless_engine_that_answers(machine: Machine, tmp_path: Path, name: str) -> None:
    path = tmp_path / "runtime" / name
    with a_socket(path):
        done = machine(**as_user(docker=f'[ "$DOCKER_HOST" = unix://{path} ] && echo 28.0.0'))
    assert done.returncode == 1
    assert f"a rootless engine answers: export DOCKER_HOST=unix://{path}" in done.stderr


def test_a_socket_that_nobody_serves_is_not_told(machine: Machine, tmp_path: Path) -> None:
    with a_socket(tmp_path / "runtime" / "docker.sock"):
        done = machine(**as_user())
    assert "a rootless engine answers" not in done.stderr


def test_a_user_is_told_of_a_rootless_engine_that_could_run(machine: Machine, tmp_path: Path) -> None:
    assert "podman.socket" in machine(**as_user(podman="")).stderr
    assert "setuptool.sh install" in machine(**as_user(podman="", **{"dockerd-rootless-setuptool.sh": ""})).stderr
    unit = tmp_path / "home" / ".config" / "systemd" / "user" / "docker.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    done = machine(**as_user(podman=""))
    assert "systemctl --user start docker" in done.stderr and "sudo" in done.stderr


def a_context(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "home" / ".docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": {}, "currentContext": name}, indent=1))


def test_the_engine_of_a_docker_context_is_used_and_none_started(machine: Machine, tmp_path: Path) -> None:
    a_context(tmp_path, "colima")
    done = machine()
    assert done.returncode == 1
    assert "no engine answers at docker's context 'colima': Cannot connect" in done.stderr
    assert "docker context use default" in done.stderr
    assert machine(docker="echo 28.0.0").returncode == 0


def test_docker_host_goes_before_a_context(machine: Machine, tmp_path: Path) -> None:
    a_context(tmp_path, "colima")
    done = machine({"DOCKER_HOST": "unix:///none"})
    assert "no engine answers at DOCKER_HOST=unix:///none" in done.stderr


def test_the_context_default_is_none(machine: Machine, tmp_path: Path) -> None:
    a_context(tmp_path, "default")
    assert "context" not in machine(**as_user()).stderr


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("20.10.5+dfsg1", True),
        ("20.10.9", True),
        ("19.03.1", True),
        ("20.10.10", False),
        ("20.10.24+dfsg1", False),
        ("29.0.1", False),
        ("4.3.1", False),
        ("library-import", False),
    ],
)
def test_an_old_engine_is_used_with_a_warning(machine: Machine, version: str, old: bool) -> None:
    done = machine(docker=f"echo {version}")
    assert done.returncode == 0
    assert ("glibc" in done.stderr and "Debian 11" in done.stderr) is old
