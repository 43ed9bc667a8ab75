"""`up` and `down`: the orchestrator in the background, for `make up` and `make down`."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from rich.markup import escape

from orchestrator.app import docker_engine
from orchestrator.cli import client
from orchestrator.cli.configured import read_settings
from orchestrator.cli.output import called_as, console
from orchestrator.cli.tables import plugins_table
from orchestrator.client import FormText
from orchestrator.deployment import read_identity
from orchestrator.errors import EngineError
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import LABEL_DEPLOYMENT

_SERVING: Final = 30.0
"""Seconds until a process that was just started answers."""
_FIRST_BUILD: Final = 1200.0
"""Seconds that building every plugin's image may take."""
_LEAVING: Final = 90.0
"""Seconds that runs in flight are given on the way down: the default time limit, and some."""


def up() -> None:
    """Start the orchestrator in the background, run one tool on a real picture, and say what to try next."""
    settings = read_settings()
    process = None
    if not _is_taken():
        process = _launch(settings)
    elif _running_pid(settings) is None:
        client.fail(
            f"Another orchestrator or program answers at {client.address()}, not one that `make up` began with the "
            f"state folder {settings.state_dir}. Stop it, or set ORCHESTRATOR_PORT to a free port."
        )
    else:
        console.print(f"The orchestrator answers at {client.address()} already.", markup=False, soft_wrap=True)
    _wait_for_plugins(settings, process)
    with client.connected() as api:
        console.print(plugins_table(api.plugins()))
    _first_call(settings)
    program = called_as()
    console.print(
        "\nNext, try:\n"
        f"  curl -s {client.address()}/v1/plugins\n"
        f"  {program} run motion-detector compare_frames -i first=plugins/motion_detector/samples/cup-first.png "
        "-i second=plugins/motion_detector/samples/cup-second.png\n"
        f"  {program} health ocr\n"
        f"API: {client.address()}/docs   stop: make down",
        markup=False,
        soft_wrap=True,
    )


def down() -> None:
    """Stop the background orchestrator and remove its containers and sockets; the history stays."""
    settings = read_settings()
    _end_process(settings)
    identity = read_identity(settings)
    if identity is None:
        console.print("Nothing of ours is here.")
        return
    try:
        count = asyncio.run(_remove_containers(settings, identity))
        console.print(f"Containers removed: {count}.")
    except EngineError as error:
        client.complain("The engine was not asked for leftover containers", str(error), style="yellow")
    shutil.rmtree(settings.run_dir / identity, ignore_errors=True)


def _is_taken() -> bool:
    """Whether anything at all is at the address."""
    try:
        httpx.get(f"{client.address()}/healthz", timeout=2, trust_env=False)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return False
    except httpx.HTTPError:
        pass
    return True


def _readiness() -> dict[str, Any]:
    try:
        found: dict[str, Any] = httpx.get(f"{client.address()}/readyz", timeout=30, trust_env=False).json()
    except (httpx.HTTPError, ValueError) as error:
        client.fail(f"{client.address()} answers no more: {error}")
    return found


def _answers() -> bool:
    try:
        response = httpx.get(f"{client.address()}/healthz", timeout=2, trust_env=False)
        health = response.json()
        return isinstance(health, dict) and health.get("status") == "ok"
    except (httpx.HTTPError, ValueError):
        return False


def _log_file(settings: Settings) -> Path:
    return settings.state_dir / "orchestrator.log"


def _pid_file(settings: Settings) -> Path:
    return settings.state_dir / "orchestrator.pid"


def _launch(settings: Settings) -> subprocess.Popen[bytes]:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _log_file(settings).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _pid_file(settings).write_text(f"{process.pid}\n")
    end = time.monotonic() + _SERVING
    while not _answers():
        if process.poll() is not None or time.monotonic() > end:
            client.fail(f"The orchestrator did not come up. The end of {_log_file(settings)}:\n{_log_tail(settings)}")
        time.sleep(0.1)
    return process


def _wait_for_plugins(settings: Settings, process: subprocess.Popen[bytes] | None) -> None:
    end = time.monotonic() + _FIRST_BUILD
    console.print(
        f"starting plugins; a first build takes minutes, its output is in {settings.state_dir}/builds",
        markup=False,
        soft_wrap=True,
    )
    with console.status("starting plugins …") as status:
        told: list[str] = []
        while time.monotonic() < end:
            state = _readiness()
            if state["status"] == "ready":
                return
            if process is not None and process.poll() is not None:
                client.fail(f"The orchestrator ended. The end of {_log_file(settings)}:\n{_log_tail(settings)}")
            waiting = state["waiting_for"]
            status.update(escape(f"waiting for {', '.join(waiting)}"))
            if waiting != told and not console.is_terminal:
                console.print(f"waiting for {', '.join(waiting)}", markup=False, soft_wrap=True)
            told = waiting
            time.sleep(0.2)
    client.errors.print("[yellow]Not every plugin is up yet; this is how they are now.[/]")


def _first_call(settings: Settings) -> None:
    """The first sample call of the ocr plugin, where it is there."""
    folder = next(
        (d / "ocr" / "samples" for d in settings.plugins_dirs if (d / "ocr" / "samples" / "calls.yaml").exists()), None
    )
    if folder is None:
        return
    call = yaml.safe_load((folder / "calls.yaml").read_text("utf-8"))[0]
    files = {name: folder / file for name, file in (call.get("files") or {}).items()}
    texts = {name: FormText(value) for name, value in (call.get("arguments") or {}).items()}
    with client.connected() as api:
        envelope = api.call("ocr", call["tool"], **files, **texts)
    names = ", ".join(str(file) for file in (call.get("files") or {}).values())
    console.print(f"\n[bold]ocr read {escape(names)}[/] in {envelope['execution_time_ms']:.0f} ms:")
    console.print(envelope["result"]["text"].strip(), markup=False, soft_wrap=True)


def _end_process(settings: Settings) -> None:
    pid = _running_pid(settings)
    if pid is None:
        console.print("No orchestrator of ours runs in the background.")
        _pid_file(settings).unlink(missing_ok=True)
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _LEAVING
    while _running_pid(settings) == pid:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            client.errors.print(f"[yellow]The orchestrator did not leave within {_LEAVING:.0f} s and was killed.[/]")
            break
        time.sleep(0.1)
    _pid_file(settings).unlink(missing_ok=True)
    console.print("The orchestrator has stopped.")


def _running_pid(settings: Settings) -> int | None:
    """The pid in the pid file, where that process is an orchestrator: a number left from before a reboot may be
    anybody's by now.
    """
    try:
        pid = int(_pid_file(settings).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"orchestrator" in command and b"serve" in command else None


async def _remove_containers(settings: Settings, deployment: str) -> int:
    engine = docker_engine(settings)
    try:
        ours = await engine.list({LABEL_DEPLOYMENT: deployment})
        for container in ours:
            await engine.remove(container.id)
        return len(ours)
    finally:
        await engine.close()


def _log_tail(settings: Settings) -> str:
    with _log_file(settings).open(errors="replace") as log:
        return "".join(deque(log, maxlen=15))
