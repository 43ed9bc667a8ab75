"""Where commands of a row run: beside one engine, with `DOCKER_HOST` set to it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

PROJECT = Path(__file__).parents[2]


class NotHadError(Exception):
    """An engine cannot be had on this machine; the text says why."""


class Room(Protocol):
    """An engine, and a shell beside it."""

    project: Path
    """The checkout, as commands in the room see it."""

    def run(self, command: Sequence[str], *, log: Path, seconds: float) -> int | None:
        """Run `command` in the checkout, all output to `log`; returns its status, None if it took too long.

        It may write into the folder of `log`, under the path that `inside` gives.
        """

    def inside(self, path: Path) -> str:
        """The path of a file beside a log, as commands in the room see it."""


@dataclass
class NativeRoom:
    """Processes of this machine, perhaps in other namespaces."""

    prefix: Sequence[str] = ()
    """Command that enters them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    project: Path = PROJECT

    def run(self, command: Sequence[str], *, log: Path, seconds: float) -> int | None:
        environment = {**os.environ, "PATH": f"{self.project / '.venv/bin'}:{os.environ['PATH']}", **self.environment}
        with log.open("ab") as output:
            return bounded([*self.prefix, *command], environment, output, seconds, self.project)

    def inside(self, path: Path) -> str:
        return str(path)


def bounded(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], seconds: float, cwd: Path
) -> int | None:
    """The exit status; None if it took too long: then its whole process group is ended."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """SIGTERM, then SIGKILL, to what is left of a process's group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


@contextlib.contextmanager
def host_engine() -> Iterator[NativeRoom]:
    """This machine's own engine, as `make engine` provides it."""
    yield NativeRoom()
