"""`python -m orchestrator.simulation`: process 1 of the testing image. It starts the orchestrator, as a child.

SIGUSR1 kills that and starts another one; SIGTERM ends both. `--plan FILE` names what is simulated from the start on.
"""

import argparse
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

from orchestrator.cli.serve import run_server
from orchestrator.simulation.app import create_simulated_app
from orchestrator.simulation.simulation import SimulationPlan

MARK: Final = Path("/etc/plugin-orchestrator-testing")
"""A file of the testing image. Elsewhere nothing is simulated."""
_CHILD: Final = "--serve"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.simulation", description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="JSON: gpus, faults, stand_ins")
    parser.add_argument(_CHILD, action="store_true", help="be the orchestrator, without a parent")
    given = parser.parse_args()
    if not MARK.exists():
        print(f"Faults are for tests alone: this is not the testing image ({MARK} is missing).", file=sys.stderr)  # noqa: T201
        return 2
    if given.serve:
        plan = SimulationPlan.of(json.loads(given.plan.read_text()))
        run_server(lambda settings, **options: create_simulated_app(settings, plan, **options), stop_plugins=True)
        return 0
    return supervise([sys.executable, "-I", "-m", "orchestrator.simulation", "--plan", str(given.plan), _CHILD])


def supervise(command: list[str]) -> int:
    """Run it until it ends by itself or by SIGTERM, and anew after each SIGUSR1; its exit code."""
    child = _start(command)
    awaited = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while True:
        match signal.sigwait(awaited):
            case signal.SIGUSR1:
                child.kill()
                child.wait()
                child = _start(command)
            case signal.SIGCHLD:
                if (code := child.poll()) is not None:
                    return code
            case number:
                child.send_signal(number)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    # It would inherit the signals that this process waits for as blocked.
    unblock = partial(signal.pthread_sigmask, signal.SIG_SETMASK, [])
    return subprocess.Popen(command, preexec_fn=unblock)  # noqa: S603, PLW1509 - our own program; there are no threads


if __name__ == "__main__":
    sys.exit(main())
