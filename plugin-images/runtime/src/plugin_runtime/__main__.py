"""`python -m plugin_runtime`: forks the worker, then supervises it.

The settings are environment variables; for a run outside a container they may be given as arguments.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from typing import NoReturn

from plugin_runtime.shared import processes
from plugin_runtime.shared.cgroup import Cgroup
from plugin_runtime.shared.environment import Environment, EnvironmentProblem, read_environment
from plugin_runtime.shared.processes import DUMP_SIGNAL
from plugin_runtime.shared.run_table import SharedRunTable
from plugin_runtime.shared.sockets import notify_ready
from plugin_runtime.supervising.supervisor import Supervisor, WorkerProcess


def main() -> int:
    """The exit status: 0 after SIGTERM, 2 if it could not start."""
    if len(sys.argv) > 1:
        os.environ.update(arguments(sys.argv[1:]))
    try:
        environment = read_environment(os.environ)
        for folder in (environment.run_dir, environment.scratch_dir):
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - pathlib costs the supervisor a megabyte
    except (EnvironmentProblem, OSError) as problem:
        print(f"plugin_runtime: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # PID 1 would lose it until its handler is installed
    processes.adopt_orphans()
    # Before the fork: both processes count from the same moment. Process 1 is in a container.
    cgroup = Cgroup(contained=os.getpid() == 1)
    runs = SharedRunTable()
    supervisor = Supervisor(environment, start_worker(environment, cgroup, runs), cgroup, runs)
    notify_ready(environment.notify_socket)
    return supervisor.run()


def start_worker(environment: Environment, cgroup: Cgroup, runs: SharedRunTable) -> WorkerProcess:
    """Fork. The child never returns from here."""
    # Before any thread is started, which would not live on in the child, and before the imports that only one process
    # needs.
    signal.signal(DUMP_SIGNAL, signal.SIG_IGN)  # until the worker can answer it, and so that it never kills
    reports_read, reports_write = socket.socketpair()
    stacks_read, stacks_write = os.pipe()
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    parent = os.getpid()
    gc.freeze()  # a collection would write to the pages that both share
    pid = os.fork()
    if pid == 0:
        reports_read.close()
        for descriptor in (stacks_read, stdout_read, stderr_read):
            os.close(descriptor)
        for descriptor, standard in ((stdout_write, 1), (stderr_write, 2)):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        run_worker(environment, cgroup, runs, parent, reports=reports_write, stacks=stacks_write)
    reports_write.close()
    for descriptor in (stacks_write, stdout_write, stderr_write):
        os.close(descriptor)
    return WorkerProcess(pid, reports_read, stacks_read, stdout_read, stderr_read)


def run_worker(
    environment: Environment, cgroup: Cgroup, runs: SharedRunTable, parent: int, *, reports: socket.socket, stacks: int
) -> NoReturn:
    """The child's whole life. It ends here only if the plugin could not start."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        processes.die_with(parent)
        processes.prefer_as_oom_victim()
        from plugin_runtime.worker import process  # noqa: PLC0415 - the supervisor must not load it

        process.run(environment, cgroup, runs, reports, stacks)
    except BaseException:  # noqa: BLE001 - a forked child must not run on into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue
        # Not sys.exit: threads and exit handlers that plugin code left behind could stop it.
        os._exit(1)


def arguments(words: list[str]) -> dict[str, str]:
    """Command line → the environment variables that it stands for."""
    import argparse  # noqa: PLC0415 - a container has no arguments

    parser = argparse.ArgumentParser(prog="python -m plugin_runtime", description="Run one plugin.")
    parser.add_argument("--entrypoint", help="package.module:Class")
    parser.add_argument("--run-dir", help="folder for control.sock and tools.sock")
    parser.add_argument("--scratch-dir", help="folder for uploads (default: RUN_DIR/scratch)")
    parser.add_argument("--package", action="append", help="import name that must be found")
    parser.add_argument(
        "--model", action="append", metavar="NAME=PATH", type=name_and_path, help="a model: a file, or a folder"
    )
    given = parser.parse_args(words)
    variables = {
        "PLUGIN_ENTRYPOINT": given.entrypoint,
        "PLUGIN_RUN_DIR": given.run_dir,
        "PLUGIN_SCRATCH_DIR": given.scratch_dir,
        "PLUGIN_PACKAGES": json.dumps(given.package) if given.package else None,
        "PLUGIN_MODELS": json.dumps(dict(given.model)) if given.model else None,
    }
    return {key: value for key, value in variables.items() if value is not None}


def name_and_path(word: str) -> tuple[str, str]:
    """NAME=PATH. Raises ValueError."""
    name, path = word.split("=", 1)
    return name, path


if __name__ == "__main__":
    sys.exit(main())
