"""VideoTracker when its model fails during a run: a structured answer, and no crash.

The real runtime with the real plugin class; only the detector is one that a test can break.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "plugins" / "video_tracker"
CLIP = FOLDER / "samples" / "cup.mp4"
PICTURE = FOLDER / "samples" / "cup.png"

BREAKABLE = """
    import ctypes
    from pathlib import Path
    import numpy as np
    from video_tracker.detection import Detections
    from video_tracker.plugin import VideoTracker

    class Breakable:
        labels = ("person",)

        def detect(self, frames):
            how = Path(__file__).with_name("how").read_text()
            if how == "out of memory":
                raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
            if how == "lost":
                raise RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=0")
            if how == "nonsense":
                return []
            if how == "crash":
                ctypes.string_at(0)
            return [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in frames]

    class Plugin(VideoTracker):
        def __init__(self):
            super().__init__(load=Breakable)
"""


class Plugin:
    """A running runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "breakable.py").write_text(textwrap.dedent(BREAKABLE))
        self.break_detector("")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{FOLDER}",
            "PLUGIN_ENTRYPOINT": "breakable:Plugin",
            "PLUGIN_RUN_DIR": str(folder / "run"),
            "PLUGIN_SCRATCH_DIR": str(folder / "scratch"),
        }
        self.process = subprocess.Popen([sys.executable, "-m", "plugin_runtime"], env=environment, cwd=folder)

    def break_detector(self, how: str) -> None:
        (self.folder / "how").write_text(how)

    def client(self, socket: str) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.folder / "run" / f"{socket}.sock"))
        return httpx.Client(transport=transport, base_url="http://plugin", timeout=60)

    def status(self) -> dict[str, Any]:
        with self.client("control") as client:
            found: dict[str, Any] = client.get("/status").json()
        return found

    def run(self, tool: str, parameter: str, file: Path) -> httpx.Response:
        with self.client("tools") as client:
            return client.post(f"/tools/{tool}", files={parameter: (file.name, file.read_bytes())})

    def until(self, *phases: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while not (self.folder / "run" / "control.sock").exists() or self.status()["phase"] not in phases:
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        return self.status()


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    folder = Path(tempfile.mkdtemp(prefix="vt-"))  # short: it holds sockets
    plugin = Plugin(folder)
    try:
        assert plugin.until("ready", "failed")["phase"] == "ready"
        yield plugin
    finally:
        plugin.process.send_signal(signal.SIGTERM)
        plugin.process.wait(20)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("how", "error"),
    [("out of memory", "CUDA failure 2: out of memory"), ("lost", "CUDA failure 719"), ("nonsense", "")],
)
def test_a_runtime_error_is_a_structured_answer_and_the_worker_lives(plugin: Plugin, how: str, error: str) -> None:
    """Kind, message, type and the plugin's own traceback, from which the orchestrator makes FAILED (TOOL_ERROR)."""
    plugin.break_detector(how)
    answer = plugin.run("detect_objects", "image", PICTURE)
    body = answer.json()
    assert (answer.status_code, body["ok"], body["kind"]) == (500, False, "exception")
    assert error in body["error"]
    assert body["error_type"] in {"RuntimeError", "ValueError"}
    assert "detect_objects" in body["traceback"]
    status = plugin.status()
    assert (status["phase"], status["worker"]["signal"], status["worker"]["exit_code"]) == ("ready", None, None)


@pytest.mark.parametrize("tool", ["track_objects", "annotate"])
def test_an_error_in_the_middle_of_a_video_ends_the_stream(plugin: Plugin, tool: str) -> None:
    """With the error: no caller waits for frames that never come."""
    plugin.break_detector("lost")
    lines = plugin.run(tool, "video", CLIP).text.strip().splitlines()
    assert '"event":"end","ok":false' in lines[-1]
    assert "CUDA failure 719" in lines[-1]
    assert plugin.status()["phase"] == "ready"


def test_a_refused_upload_does_not_end_the_plugin(plugin: Plugin) -> None:
    """Bad media is the caller's error."""
    refused = plugin.run("detect_objects", "image", FOLDER / "README.md")
    assert (refused.status_code, refused.json()["kind"]) == (422, "invalid_input")
    assert plugin.run("detect_objects", "image", PICTURE).json()["ok"]


def test_a_crash_in_the_drivers_code_ends_only_the_worker(plugin: Plugin) -> None:
    """The supervisor still answers, and reports the signal."""
    plugin.break_detector("crash")
    with pytest.raises(httpx.RemoteProtocolError):
        plugin.run("detect_objects", "image", PICTURE)
    status = plugin.until("exited")
    assert status["worker"]["signal"] == signal.SIGSEGV
