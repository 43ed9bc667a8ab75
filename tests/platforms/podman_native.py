"""Podman of Debian 12 in namespaces of its own, as `podman-native` brings it up."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

from simulated_nvidia.docker26 import unpacked

from platforms import cache
from platforms.rooms import PROJECT, NativeRoom, NotHadError

SCRIPT = str(PROJECT / "tests/platforms/podman-native")


@contextlib.contextmanager
def podman_native() -> Iterator[NativeRoom]:
    """Podman for the length of the context, with the base image; one that somebody started by hand is another."""
    own = {"PODMAN_NATIVE_DIR": str(cache.folder() / "podman")}
    environment = {**os.environ, **own}
    started = subprocess.run([SCRIPT, "up"], env=environment, capture_output=True, text=True, timeout=600, check=False)
    if started.returncode:
        raise NotHadError(started.stderr.strip())
    try:
        with cache.save_images().open("rb") as archive:
            command = [SCRIPT, "podman", "load", "--quiet"]
            subprocess.run(command, env=environment, stdin=archive, capture_output=True, check=True, timeout=300)
        path = f"{unpacked('compose2', ['docker-compose']) / 'usr/bin'}:{os.environ['PATH']}"
        yield NativeRoom((SCRIPT, "run"), {**own, "DOCKER_HOST": started.stdout.strip(), "PATH": path})
    finally:
        subprocess.run([SCRIPT, "down"], env=environment, check=False, capture_output=True, timeout=120)
