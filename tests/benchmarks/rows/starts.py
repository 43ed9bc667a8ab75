"""Twenty plugins from nothing to INITIALIZED, and the same containers by `docker run`, all at once."""

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, ratios, rotated
from benchmarks.processes import answers
from benchmarks.served import served

PLUGINS = 20
COLD, WARM, FLOOR = "from the orchestrator's own start", "with the orchestrator up", "docker run in parallel"


def measure(bench: Bench) -> Iterator[Figure]:
    """Half as many rounds as elsewhere: each makes a few hundred engine calls."""
    names = [f"p{number:02}" for number in range(PLUGINS)]
    seconds: dict[str, list[float]] = {COLD: [], WARM: [], FLOOR: []}
    with bench.plugins(names) as folder:
        with served(folder) as orchestrator:
            orchestrator.until_up()
            model = orchestrator.container(names[0]).attrs
        for round_number in range(max(2, bench.options.rounds // 2)):
            for way in rotated(("orchestrator", "docker run"), round_number):
                if way == "docker run":
                    seconds[FLOOR].append(_docker_run(model, PLUGINS))
                    continue
                with served(folder, start=False) as orchestrator:
                    started = time.monotonic()
                    orchestrator.start()
                    seconds[COLD].append(orchestrator.until_up() - started)
                    orchestrator.command(names, "stop")
                    started = time.monotonic()
                    orchestrator.command(names, "start")
                    seconds[WARM].append(orchestrator.until_up() - started)
    for way in (COLD, WARM):
        yield Figure(
            f"20 plugins up, {way}: ours over docker run", ratios(seconds[way], seconds[FLOOR]), "x", Target("≤", 1.25)
        )
    for way, taken in seconds.items():
        yield Figure(f"  20 containers, {way}", taken, "s")


def run_command(model: Mapping[str, Any], run_folder: Path, name: str) -> list[str]:
    """`docker run` of the container that `model` (from `docker inspect`) describes, with a socket folder of its own."""
    config, host = model["Config"], model["HostConfig"]
    command = ["docker", "run", "--detach", "--name", name, "--user", config["User"], "--hostname", config["Hostname"]]
    command += [f"--env={variable}" for variable in config["Env"]]
    command += [f"--volume={path}" for path in config.get("Volumes") or {}]
    command += [f"--cap-drop={capability}" for capability in host["CapDrop"]]
    command += [f"--security-opt={option}" for option in host["SecurityOpt"]]
    command += [f"--tmpfs={path}:{options}" for path, options in (host["Tmpfs"] or {}).items()]
    command += [f"--log-opt={key}={value}" for key, value in host["LogConfig"]["Config"].items()]
    command += [f"--log-driver={host['LogConfig']['Type']}", f"--network={host['NetworkMode']}"]
    command += [
        f"--memory={host['Memory']}",
        f"--memory-swap={host['MemorySwap']}",
        f"--pids-limit={host['PidsLimit']}",
    ]
    command += [f"--shm-size={host['ShmSize']}", f"--ipc={host['IpcMode']}"]
    command += ["--read-only"] if host["ReadonlyRootfs"] else []
    command += [f"--mount=type=bind,source={run_folder},target=/run/plugin", model["Image"]]
    return command


def _docker_run(model: Mapping[str, Any], number: int) -> float:
    """Seconds until all of them serve their tools."""
    with tempfile.TemporaryDirectory(prefix="po-", dir="/tmp") as home:
        folders = [Path(home) / f"{index:02}" for index in range(number)]
        for folder in folders:
            folder.mkdir()
            folder.chmod(0o777)
        names = [f"bench-{Path(home).name}-{folder.name}" for folder in folders]
        try:
            started = time.monotonic()
            commands = [
                subprocess.Popen(run_command(model, folder, name), stdout=subprocess.DEVNULL)
                for folder, name in zip(folders, names, strict=True)
            ]
            _until_they_answer([folder / "tools.sock" for folder in folders])
            ended = time.monotonic()
            assert [command.wait() for command in commands] == [0] * number, "docker run failed"
            return ended - started
        finally:
            remove = ["docker", "rm", "--force", "--volumes", *names]
            subprocess.run(remove, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _until_they_answer(sockets: Sequence[Path], within: float = 300) -> None:
    waiting, end = list(sockets), time.monotonic() + within
    while waiting := [path for path in waiting if not answers(path)]:
        assert time.monotonic() < end, f"{len(waiting)} containers do not answer"
        time.sleep(0.01)
