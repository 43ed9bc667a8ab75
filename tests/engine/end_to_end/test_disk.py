"""A plugin's disk, in real containers: what it writes is bounded, and its cache outlives it."""

import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import docker
import pytest
from support.live import LiveOrchestrator, live_orchestrator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

MIB = 1024 * 1024
SOURCE = """
    import os
    from pathlib import Path
    from plugin_runtime import tool

    class Plugin:
        def validate(self) -> None:
            pass

        @tool
        def fill(self, mib: int, folder: str = "PLUGIN_SCRATCH_DIR") -> int:
            with (Path(os.environ[folder]) / "filled").open("ab") as file:
                for _ in range(mib):
                    file.write(os.urandom(1 << 20))
            return mib

        @tool
        def held(self, folder: str) -> int:
            file = Path(os.environ[folder]) / "filled"
            return file.stat().st_size if file.exists() else 0

        @tool
        def measure(self, data: Path) -> int:
            return data.stat().st_size
"""


def write_plugin(folder: Path, version: str = "1.0.0", cache: str = "64MiB") -> None:
    package = folder / "writer" / "writer"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(dedent(SOURCE))
    (folder / "writer" / "plugin.yaml").write_text(
        f"version: {version}\ndescription: Writes.\nentrypoint: writer.plugin:Plugin\ncache: {cache}\n"
        "limits: {timeout: 60s, memory: 256MiB, scratch: 64MiB}\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plugin(tmp_path)
    return tmp_path


@pytest.fixture
def live(folder: Path) -> Iterator[LiveOrchestrator]:
    with live_orchestrator([folder]) as live:
        live.wait_ready(600)
        try:
            yield live
        finally:
            live.stop()
            remove_caches(live.deployment)


def remove_caches(deployment: str) -> None:
    engine = docker.from_env()
    try:
        for volume in engine.volumes.list(filters={"label": f"plugin-orchestrator.deployment={deployment}"}):
            volume.remove(force=True)
    finally:
        engine.close()


def check(live: LiveOrchestrator, name: str) -> str:
    (found,) = [check for check in live.health("writer")["checks"] if check["name"] == name]
    return str(found["detail"])


def result(live: LiveOrchestrator, tool: str, **arguments: Any) -> Any:
    answer = live.run("writer", tool, arguments).json()
    assert answer["ok"], answer
    return answer["result"]


def test_a_cache_outlives_instances_and_images(live: LiveOrchestrator, folder: Path) -> None:
    """Where libraries look for theirs; one that has grown too large is cleared at the next start, and health says."""
    assert result(live, "fill", mib=20, folder="XDG_CACHE_HOME") == 20
    write_plugin(folder, "2.0.0")
    assert live.restart("writer", wait=300)["state"] == "INITIALIZED"
    assert result(live, "held", folder="PLUGIN_CACHE_DIR") == 20 * MIB
    assert "in use" in check(live, "cache")
    result(live, "fill", mib=60, folder="PLUGIN_CACHE_DIR")
    live.restart("writer", wait=300)
    assert "cleared" in check(live, "cache")
    assert result(live, "held", folder="PLUGIN_CACHE_DIR") == 0
    assert result(live, "fill", mib=1, folder="HOME") == 1


def test_uploads_have_the_room_that_the_plugins_own_files_leave(live: LiveOrchestrator) -> None:
    """One limit for both."""
    route, headers = "/v1/plugins/writer/tools/measure/run", {"Content-Type": "video/mp4"}
    assert live.client.post(route, content=b"x" * (50 * MIB), headers=headers).status_code == 200
    assert result(live, "fill", mib=40) == 40
    refused = live.client.post(route, content=b"x" * (50 * MIB), headers=headers)
    assert refused.status_code == 413
    assert "limits.scratch" in refused.json()["error"]


def test_a_plugin_that_fills_the_disk_is_ended(live: LiveOrchestrator) -> None:
    """Health says beforehand how the limit is enforced, and afterwards what was wrong. Nothing of it stays."""
    how = check(live, "limits.scratch").partition(":")[0]
    assert how in {"quota", "watched"}
    answer = live.run("writer", "fill", {"mib": 200})
    end = time.monotonic() + 60
    while (health := live.health("writer"))["state"] != "FAILED":
        assert time.monotonic() < end, (how, answer.text, health)
        time.sleep(0.2)
    assert health["reason_code"] == "TOOL_ERROR"
    assert "limits.scratch" in health["reason"]
    assert "64 MiB" in health["reason"]
