"""Docker 26 of Debian 13 beside this machine's engine: unpacked, never installed, in namespaces of its own.

Its network namespace has its bridge and firewall rules, and slirp4netns connects it with the world. Its mount namespace
has the files of /etc that it needs changed, and its socket at /var/run/docker.sock, where nothing meets the machine's
own engine by accident. Tests that run in both see it as their host's engine.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulated_nvidia.docker26 import docker26, unpacked

from platforms.cache import programs, save_images
from platforms.rooms import PROJECT, NativeRoom, NotHadError, end_group

READY_WITHIN = 90.0  # seconds
REMAPPED = 100_000
"""First user id of the containers under userns-remap."""
DNS = "10.0.2.3"  # slirp4netns answers there


@contextlib.contextmanager
def docker_native(*, settings: Mapping[str, Any] | None = None) -> Iterator[NativeRoom]:
    """An engine for the length of the context. `settings` is its daemon.json."""
    if os.geteuid() != 0:
        raise NotHadError("an engine of its own needs root")
    program, path = docker26()
    folder = Path(tempfile.mkdtemp(prefix="platform-", dir="/tmp"))
    folder.chmod(0o711)  # remapped users must reach what is in it
    environment = {
        "DOCKER_HOST": "unix:///var/run/docker.sock",
        "PATH": f"{path}:{unpacked('compose2', ['docker-compose']) / 'usr/bin'}:{os.environ['PATH']}",
    }
    try:
        with _daemon(folder, program, settings or {}, environment) as prefix:
            room = NativeRoom(prefix, environment)
            images = save_images()
            with images.open("rb") as archive:
                loaded = subprocess.run(
                    [*prefix, "docker", "load", "--quiet"], stdin=archive, capture_output=True, text=True,
                    env={**os.environ, **environment}, check=False, timeout=300,
                )  # fmt: skip
            if loaded.returncode:
                raise NotHadError(f"images were not loaded: {loaded.stderr.strip()}")
            yield room
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _daemon(
    folder: Path, program: str, settings: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[tuple[str, ...]]:
    """The daemon in its namespaces, until the end of the context; gives the command that enters them."""
    (folder / "daemon.json").write_text(json.dumps(settings))
    _etc(folder)
    # The pid that is waited for and entered is the daemon's: every step becomes the next by exec.
    script = f"""
        set -e
        for file in {folder}/etc/*; do mount --bind "$file" "$(realpath /etc/"${{file##*/}}")"; done
        ip link set lo up
        exec {program} --host unix://{folder}/s --log-level=warn --config-file {folder}/daemon.json \\
            --pidfile {folder}/pid --data-root {folder}/data --exec-root {folder}/exec
    """
    with (folder / "log").open("ab") as output:
        daemon = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "slave", "bash", "-c", script],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
            start_new_session=True,
        )  # fmt: skip
    prefix = ("nsenter", "--target", str(daemon.pid), "--net", "--mount", f"--wd={PROJECT}")
    slirp = None
    try:
        _wait(folder, daemon)
        slirp = _connect(daemon.pid, folder)
        subprocess.run([*prefix, "touch", "/var/run/docker.sock"], check=True)
        subprocess.run([*prefix, "mount", "--bind", str(folder / "s"), "/var/run/docker.sock"], check=True)
        yield prefix
    finally:
        # By its name: those of this engine's containers that a test left behind would outlive it.
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            _remove_containers(folder)
        end_group(daemon)
        if slirp is not None:
            end_group(slirp)


def _etc(folder: Path) -> None:
    """Files that are laid over those of /etc."""
    etc = folder / "etc"
    etc.mkdir()
    (etc / "resolv.conf").write_text(f"nameserver {DNS}\n")
    for name in ("subuid", "subgid"):
        (etc / name).write_text(f"dockremap:{REMAPPED}:65536\n")
    for name, line in (
        ("passwd", "dockremap:x:{0}:{0}::/nonexistent:/usr/sbin/nologin\n"),
        ("group", "dockremap:x:{0}:\n"),
    ):
        text = Path("/etc", name).read_text()
        (etc / name).write_text(text if "\ndockremap:" in text else text + line.format(REMAPPED - 1))


def _wait(folder: Path, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_WITHIN
    while subprocess.run(
        ["docker", "--host", f"unix://{folder}/s", "version"], capture_output=True, check=False, timeout=30
    ).returncode:
        if daemon.poll() is not None or time.monotonic() > end:
            raise NotHadError(f"its dockerd did not start: {(folder / 'log').read_text().strip().splitlines()[-1:]}")
        time.sleep(0.3)


def _connect(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """Connect the namespace of a process with the world."""
    tools = programs()
    with (folder / "slirp.log").open("ab") as output:
        slirp = subprocess.Popen(
            [tools / "usr/bin/slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", str(pid), "tap0"],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "LD_LIBRARY_PATH": str(tools / "usr/lib/x86_64-linux-gnu")},
        )  # fmt: skip
    end = time.monotonic() + 30
    while "tap0" not in Path(f"/proc/{pid}/net/dev").read_text():
        if slirp.poll() is not None or time.monotonic() > end:
            raise NotHadError(f"slirp4netns did not start: {(folder / 'slirp.log').read_text()[-1000:]}")
        time.sleep(0.1)
    return slirp


def _remove_containers(folder: Path) -> None:
    docker = ["docker", "--host", f"unix://{folder}/s"]
    listed = subprocess.run(
        [*docker, "ps", "-aq"], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    if listed:
        subprocess.run([*docker, "rm", "--force", "--volumes", *listed], capture_output=True, check=True, timeout=120)
