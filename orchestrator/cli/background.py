"""`up` and `down`: start and stop the orchestrator in the background, for `make up` and `make down`."""

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
from rich.markup import escape

from orchestrator.app import docker_engine
from orchestrator.cli.connection import address, connected
from orchestrator.cli.console import complain, console, errors, fail, program_name
from orchestrator.cli.settings import read_settings
from orchestrator.cli.tables import plugins_table
from orchestrator.deployment import read_identity
from orchestrator.errors import EngineError
from orchestrator.loader.samples import SamplesError, read_samples
from orchestrator.run_folder import logout_warning
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import LABEL_DEPLOYMENT, instances_of
from orchestrator.tools.shutdown import longest_stop

_START_SECONDS: Final = 30.0
"""Limit until a new process answers."""
_BUILD_SECONDS: Final = 1200.0
"""Limit for building every plugin's image."""


def up() -> None:
    """Start the orchestrator in the background, run one tool on a real picture, and show what to try next."""
    settings = read_settings()
    if (problem := logout_warning(settings.run_dir)) is not None:
        complain("The plugins will not outlive your logout", problem, style="yellow")
    process = None
    if not _is_taken():
        process = _launch(settings)
    elif _running_pid(settings) is None:
        fail(
            f"Another orchestrator or program answers at {address()}, not the one that `make up` started with the "
            f"state folder {settings.state_dir}. Stop it, or set ORCHESTRATOR_PORT to a free port."
        )
    else:
        console.print(f"The orchestrator already answers at {address()}.", markup=False, soft_wrap=True)
    _wait_for_plugins(settings, process)
    with connected() as api:
        console.print(plugins_table(api.plugins()))
    _first_call(settings)
    program = program_name()
    console.print(
        "\nNext, try:\n"
        f"  curl -s {address()}/v1/plugins\n"
        f"  {program} run motion-detector compare_frames -i first=plugins/motion_detector/samples/cup-first.png "
        "-i second=plugins/motion_detector/samples/cup-second.png\n"
        f"  {program} health ocr\n"
        f"API: {address()}/docs   stop: make down",
        markup=False,
        soft_wrap=True,
    )


def down() -> None:
    """Stop the background orchestrator and remove its containers and sockets. The history stays."""
    settings = read_settings()
    _end_process(settings)
    identity = read_identity(settings)
    if identity is None:
        console.print("There are no containers or sockets to remove.")
        return
    try:
        count = asyncio.run(_remove_containers(settings, identity))
        console.print(f"Containers removed: {count}.")
    except EngineError as error:
        complain("Stray containers were not removed", str(error), style="yellow")
    shutil.rmtree(settings.run_dir / identity, ignore_errors=True)


def _is_taken() -> bool:
    """Whether any program answers at the address."""
    try:
        httpx.get(f"{address()}/healthz", timeout=2, trust_env=False)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return False
    except httpx.HTTPError:
        pass  # something listens there, even if it does not speak HTTP
    return True


def _readiness() -> dict[str, Any]:
    try:
        found: dict[str, Any] = httpx.get(f"{address()}/readyz", timeout=30, trust_env=False).json()
    except (httpx.HTTPError, ValueError) as error:
        fail(f"The orchestrator at {address()} stopped answering: {error}")
    return found


def _answers() -> bool:
    try:
        response = httpx.get(f"{address()}/healthz", timeout=2, trust_env=False)
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
            start_new_session=True,  # Ctrl-C in this terminal must not reach it
        )
    _pid_file(settings).write_text(f"{process.pid}\n")
    end = time.monotonic() + _START_SECONDS
    while not _answers():
        if process.poll() is not None or time.monotonic() > end:
            fail(f"The orchestrator did not start. Last lines of {_log_file(settings)}:\n{_log_tail(settings)}")
        time.sleep(0.1)
    return process


def _wait_for_plugins(settings: Settings, process: subprocess.Popen[bytes] | None) -> None:
    end = time.monotonic() + _BUILD_SECONDS
    console.print(
        f"starting plugins; the first build takes minutes, with its output in {settings.state_dir}/builds",
        markup=False,
        soft_wrap=True,
    )
    with console.status("starting plugins …") as status:
        shown: list[str] = []
        while time.monotonic() < end:
            state = _readiness()
            if state["status"] == "ready":
                return
            if process is not None and process.poll() is not None:
                fail(f"The orchestrator exited. Last lines of {_log_file(settings)}:\n{_log_tail(settings)}")
            waiting = state["waiting_for"]
            status.update(escape(f"waiting for {', '.join(waiting)}"))
            if waiting != shown and not console.is_terminal:
                console.print(f"waiting for {', '.join(waiting)}", markup=False, soft_wrap=True)
            shown = waiting
            time.sleep(0.2)
    errors.print("[yellow]Some plugins have not started yet. Their states now:[/]")


def _first_call(settings: Settings) -> None:
    """Make the first sample call of the ocr plugin, if that is among the plugins."""
    found = (sample for folder in settings.plugins_dirs for sample in read_samples(folder / "ocr"))
    try:
        sample = next(found, None)
    except SamplesError as error:
        complain("No call was made", str(error), style="yellow")
        return
    if sample is None:
        return
    with connected() as api:
        envelope = api.call("ocr", sample.call.tool, **sample.files(), **sample.call.arguments)
    names = ", ".join(name for _, name in sample.call.named_files())
    console.print(f"\n[bold]ocr read {escape(names)}[/] in {envelope['execution_time_ms']:.0f} ms:")
    console.print(envelope["result"]["text"].strip(), markup=False, soft_wrap=True)


def _end_process(settings: Settings) -> None:
    pid = _running_pid(settings)
    if pid is None:
        console.print("No orchestrator runs in the background.")
        _pid_file(settings).unlink(missing_ok=True)
        return
    os.kill(pid, signal.SIGTERM)
    limit = longest_stop(settings)
    end = time.monotonic() + limit
    while _running_pid(settings) == pid:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            errors.print(f"[yellow]The orchestrator did not stop within {limit:.0f} s and was killed.[/]")
            break
        time.sleep(0.1)
    _pid_file(settings).unlink(missing_ok=True)
    console.print("The orchestrator has stopped.")


def _running_pid(settings: Settings) -> int | None:
    """The pid in the pid file, if that process is an orchestrator."""
    # After a reboot another program may have the number.
    try:
        pid = int(_pid_file(settings).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"orchestrator" in command and b"serve" in command else None


async def _remove_containers(settings: Settings, deployment: str) -> int:
    engine = docker_engine(settings)
    try:
        ours = instances_of(await engine.list({LABEL_DEPLOYMENT: deployment}))
        for container in ours:
            await engine.remove(container.id)
        return len(ours)
    finally:
        await engine.close()


def _log_tail(settings: Settings) -> str:
    with _log_file(settings).open(errors="replace") as log:
        return "".join(deque(log, maxlen=15))
