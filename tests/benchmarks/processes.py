"""Processes that a measurement starts, and the kernel's figures about them."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TESTS = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def watched_process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run it within the context. If the block raises, the note on the exception has its output."""
    with tempfile.TemporaryFile() as output:
        environment = os.environ | {"PYTHONPATH": str(TESTS)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process
        except BaseException as error:
            output.seek(0)
            error.add_note(f"{command[0]} said:\n{output.read()[-2000:].decode(errors='replace')}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until_it_listens(port: int, process: subprocess.Popen[bytes], within: float = 60) -> None:
    end = time.monotonic() + within
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, "the server exited"
        assert time.monotonic() < end, "the server does not listen"
        time.sleep(0.02)


def answers(socket_path: Path) -> bool:
    """Whether a process accepts connections there."""
    with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
        caller.connect(str(socket_path))
        return True
    return False


def resident(pid: int) -> int:
    """Resident bytes now."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """Most resident bytes since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and of its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of the process, of threads that have ended too; finer than `cpu_seconds`, which counts ticks.

    Raises OSError without such a process.
    """
    # Linux numbers a process's CPU clock so (clock_getcpuclockid(3), which Python does not have); 2: the scheduler's.
    return time.clock_gettime_ns((~pid << 3) | 2)


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"/proc/{pid}/status has no {key}")
