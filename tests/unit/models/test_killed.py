"""`models pull`, killed at any moment and run many times at once: never a wrong byte under a right name."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from support.file_server import FileServer
from support.reliability import ReliabilityTable

from orchestrator.models.store import ModelStore

from .conftest import CONTENT, SHA256, Pulls

LARGE = random.Random(14).randbytes(8 * 1024**2)
LARGE_SHA256 = hashlib.sha256(LARGE).hexdigest()


class Commands:
    """`orchestrator models pull` in processes of their own, for a plugin whose model the server has."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.server, self.folder = server, folder
        self.store = ModelStore(folder / "state" / "models")
        model = {"path": "w.onnx", "from": [server.url], "sha256": LARGE_SHA256}
        manifest = {"version": "1", "description": "Reads.", "entrypoint": "r.p:R", "models": {"w": model}}
        (folder / "plugins" / "reader").mkdir(parents=True)
        (folder / "plugins" / "reader" / "plugin.yaml").write_text(yaml.safe_dump(manifest))

    def start(self) -> subprocess.Popen[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "ORCHESTRATOR_PLUGINS_DIRS": str(self.folder / "plugins"),
            "ORCHESTRATOR_STATE_DIR": str(self.folder / "state"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "models", "pull"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wrong_files(self) -> list[str]:
        """Files under a name that is not their hash."""
        return [
            file.sha256
            for file in self.store.files()
            if hashlib.sha256((self.store.root / "sha256" / file.sha256).read_bytes()).hexdigest() != file.sha256
        ]


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with FileServer(LARGE) as server:
        yield Commands(tmp_path, server)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments(
    commands: Commands, reliability: ReliabilityTable, pytestconfig: pytest.Config
) -> None:
    """Of the start of the process, of the transfer, and of its end; each goes on from what the one before left."""
    kills = pytestconfig.getoption("--pull-kills")
    moments, wrong, stages = random.Random(), 0, Counter[str]()
    began = time.monotonic()
    with commands.start() as whole:
        _, told = whole.communicate()
    assert whole.returncode == 0, told
    span = time.monotonic() - began
    commands.server.rate = 2 * len(LARGE)
    shutil.rmtree(commands.store.root)
    for number in range(kills):
        before, asked = commands.store.partial(LARGE_SHA256), len(commands.server.requests)
        with commands.start() as process:
            if number % 4 == 0:
                time.sleep(moments.uniform(0, span))
            else:  # by the clock alone, most would be killed while Python starts
                while len(commands.server.requests) == asked and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(moments.uniform(0, 0.7))  # whole, the transfer takes 0.5 s
            process.kill()
        wrong += len(commands.wrong_files())
        after = commands.store.partial(LARGE_SHA256)
        if commands.store.find(LARGE_SHA256) is not None:
            stages["after the file was complete"] += 1
            shutil.rmtree(commands.store.root)
        elif after is None or (before is not None and after.size == before.size):
            stages["before a byte came"] += 1
        else:
            stages["while bytes came"] += 1
    with commands.start() as last:
        _, told = last.communicate()
    assert last.returncode == 0 and commands.wrong_files() == [], told
    assert [file.sha256 for file in commands.store.files()] == [LARGE_SHA256]
    assert commands.store.partials() == []
    for stage, count in stages.items():
        reliability.at_most(f"models pull killed {stage}", count, unit="times")
    reliability.count("models pull killed: only right files", right=kills - wrong, of=kills)


CRASHING = """
import os, pathlib, signal, sys
from orchestrator.models.plan import Reference, WantedFile
from orchestrator.models.pull import Puller
from orchestrator.models.store import ModelStore

root, source, sha256, last = sys.argv[1:]
steps = 0

def count(event, _):
    global steps
    if event == "open" or event.startswith(("os.", "fcntl.")):
        steps += 1
        if steps == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

class Quiet:
    progress = note = lambda *_: None

file = WantedFile(sha256, (f"file://{source}",), (Reference("reader", "w", "w.onnx"),))
sys.addaudithook(count)
Puller(ModelStore(pathlib.Path(root)), None, Quiet()).pull(file)
sys.stdout.write(str(steps))
"""


@pytest.mark.slow
def test_killed_before_each_of_its_steps(tmp_path: Path, client: httpx.Client) -> None:
    """Each call of the system that Python tells of; the next pull ends well after every one."""
    (tmp_path / "w").write_bytes(CONTENT)

    def crashing(root: Path, last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CRASHING, str(root), str(tmp_path / "w"), SHA256, str(last)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    steps = int(crashing(tmp_path / "whole", 0).stdout)
    assert steps > 15
    for step in range(1, steps + 1):
        pull = Pulls(ModelStore(tmp_path / str(step)), client)
        assert crashing(pull.store.root, step).returncode == -signal.SIGKILL
        path = pull.store.find(SHA256)
        assert path is None or path.read_bytes() == CONTENT, f"step {step}"
        assert pull(f"file://{tmp_path}/w") in ("present", "fetched")
        pull.store.sweep()
        assert pull.right, f"step {step}"


@pytest.mark.slow
def test_eight_pulls_of_one_file_at_once(commands: Commands, reliability: ReliabilityTable) -> None:
    """They are one download, and all of them succeed."""
    commands.server.rate = 4 * 1024**2
    processes = [commands.start() for _ in range(8)]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, told
    assert commands.wrong_files() == [] and commands.store.find(LARGE_SHA256) is not None
    assert len(commands.server.requests) == 1 and commands.server.bytes_sent == len(LARGE)
    assert sum("is fetched (8 MiB)" in text for text in told) == 1
    reliability.count("eight pulls at once: one download", right=1, of=1)


@pytest.mark.slow
def test_another_pull_takes_over_from_a_killed_one(commands: Commands) -> None:
    """Of eight at once; nothing is fetched twice."""
    commands.server.rate = 4 * 1024**2
    first = commands.start()
    try:
        while (partial := commands.store.partial(LARGE_SHA256)) is None or partial.size < 1024**2:
            assert first.poll() is None
            time.sleep(0.01)
        others = [commands.start() for _ in range(7)]
        time.sleep(1)  # some of them wait by now
    finally:
        first.kill()
        first.communicate()
    told = [process.communicate()[1] for process in others]
    assert [process.returncode for process in others] == [0] * 7, told
    assert commands.wrong_files() == [] and commands.store.find(LARGE_SHA256) is not None
    first_range, second_range = commands.server.ranges
    assert first_range is None and second_range is not None and int(second_range[6:-1]) >= 1024**2
