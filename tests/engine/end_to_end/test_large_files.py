"""Files larger than the memory of the plugin, in and out, with real containers: right to the last byte."""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.live import LiveOrchestrator, live_orchestrator
from support.reliability import ReliabilityTable

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

GIB = 1024**3
MIB = 1024**2
SIZE = 2 * 10**9
_log = logging.getLogger(__name__)
MANIFEST = """
version: 1.0.0
description: Gives files back.
entrypoint: giver.plugin:Giver
limits:
  memory: 1GiB
  timeout: 300s
"""
PLUGIN = """
import os
import tempfile
from pathlib import Path

from plugin_runtime import File, tool


class Giver:
    def validate(self) -> None:
        pass

    @tool
    def turn(self, file: Path) -> File:
        \"\"\"The file with each block turned around, as another file.\"\"\"
        out = Path(tempfile.gettempdir()) / "turned.bin"
        with file.open("rb") as source, out.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block[::-1])
        return File(out)

    @tool
    def zeros(self, megabytes: int) -> File:
        \"\"\"A file of its own.\"\"\"
        path = Path(tempfile.gettempdir()) / f"zeros-{os.urandom(4).hex()}.bin"
        with path.open("wb") as target:
            target.truncate(megabytes << 20)
        return File(path, name="zeros.bin")
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    package = folder / "giver" / "giver"
    package.mkdir(parents=True)
    (folder / "giver" / "plugin.yaml").write_text(MANIFEST)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(PLUGIN)
    with live_orchestrator([folder]) as live:
        live.wait_ready(300)
        yield live


def blocks() -> Iterator[bytes]:
    """`SIZE` bytes, no two blocks of them alike."""
    left, number = SIZE, 0
    pattern = bytes(range(256)) * (MIB // 256)
    while left > 0:
        block = (number.to_bytes(8, "big") + pattern)[: min(MIB, left)]
        yield block
        left, number = left - len(block), number + 1


def resident(live: LiveOrchestrator) -> int:
    status = Path(f"/proc/{live.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@contextmanager
def watched(live: LiveOrchestrator) -> Iterator[list[int]]:
    """How large the orchestrator is meanwhile."""
    sizes: list[int] = []
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.05):
            sizes.append(resident(live))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield sizes
    finally:
        stopped.set()
        watcher.join()


def fetched(live: LiveOrchestrator, url: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with live.client.stream("GET", url, timeout=300) as answer:
        assert answer.status_code == 200
        for chunk in answer.iter_bytes(MIB):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def test_two_gigabytes_pass_through_a_plugin_held_to_one(live: LiveOrchestrator) -> None:
    """In by a Path, out by a File; the orchestrator grows by a few buffers."""
    live.run("giver", "zeros", {"megabytes": 1})  # what a first file loads
    turned = hashlib.sha256()
    for block in blocks():
        turned.update(block[::-1])
    before = resident(live)
    times = [time.monotonic()]
    with watched(live) as sizes:
        answer = live.client.post(
            "/v1/plugins/giver/tools/turn/run",
            content=blocks(),
            headers={"Content-Type": "application/octet-stream"},
            timeout=600,
        )
        times.append(time.monotonic())
        assert answer.status_code == 200, answer.text
        reference = answer.json()["result"]
        assert (reference["file"], reference["size"], reference["sha256"]) == ("turned.bin", SIZE, turned.hexdigest())
        assert fetched(live, reference["url"]) == (SIZE, turned.hexdigest())
        times.append(time.monotonic())
    growth = max(sizes) - before
    figures = (before / MIB, max(sizes) / MIB, times[1] - times[0], times[2] - times[1])
    _log.info("orchestrator %.1f MiB before, at most %.1f MiB meanwhile; run %.1f s, download %.1f s", *figures)
    assert growth < 48 * MIB, f"{before / MIB:.1f} MiB, then {max(sizes) / MIB:.1f} MiB"
    assert live.health("giver")["container"]["oom_kills"] == 0


def test_no_file_is_lost_or_halved_whenever_a_kill_comes(live: LiveOrchestrator, reliability: ReliabilityTable) -> None:
    """SIGKILL of the orchestrator while the tool runs, while its file is fetched, and afterwards."""
    right = runs = 0
    zeros = hashlib.sha256(bytes(300 * MIB)).hexdigest()
    for moment in (0.05, 0.2, 0.4, 0.6, 1.0, 1.5):
        answer = live.run("giver", "zeros", {"megabytes": 300}, headers={"Prefer": "respond-async"})
        run_id = answer.json()["run_id"]
        time.sleep(moment)
        live.kill()
        live.start()
        live.wait_until_serving()
        ended = live.client.get(f"/v1/runs/{run_id}/result", params={"wait": 60})
        if live.client.get(f"/v1/runs/{run_id}").json()["state"] == "interrupted":
            continue  # its call had not reached the container
        runs += 1
        reference = ended.json()["result"]
        right += fetched(live, reference["url"]) == (300 * MIB, reference["sha256"])
        assert reference["sha256"] == zeros
        folder = live.state_dir / "results"
        orphans = {path.name for path in folder.iterdir()} - {
            name for path in folder.iterdir() if not path.suffix for name in (path.name, f"{path.name}.files")
        }
        assert orphans == set()
        assert not list(folder.rglob(".part"))
    reliability.count("file of an asynchronous run right after SIGKILL", right=right, of=runs)
    assert runs > 0
