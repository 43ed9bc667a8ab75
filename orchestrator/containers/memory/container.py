"""One container of the memory engine: a coroutine as its process, its state and its output."""

import asyncio
import itertools
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.containers.spec import ContainerSpec, ContainerStatus

_SIGKILL_EXIT: Final = 128 + signal.SIGKILL
_pids: Final = itertools.count(10_000_001)  # no process of this machine has such a number

Emit = Callable[[str, Mapping[str, str], str, int | None], None]
"""Takes an event: container id, labels, Docker's action, exit code where there is one."""


class ProgramHandle:
    """A program's view of its container."""

    def __init__(self, container_id: str, log: Callable[[str], None]) -> None:
        """`log` takes the program's output, one line at a time."""
        self.container_id = container_id
        self.log = log
        self._terminated = asyncio.Event()

    async def terminated(self) -> None:
        """Wait for SIGTERM. A program that never does ignores the signal, as the first process of a container does."""
        await self._terminated.wait()

    def terminate(self) -> None:
        """Send SIGTERM (the engine's side)."""
        self._terminated.set()


Program = Callable[[ContainerSpec, ProgramHandle], Awaitable[int]]
"""Returns its exit code. SIGKILL is a cancellation; an exception is printed and means exit code 1."""


async def until_terminated(_: ContainerSpec, handle: ProgramHandle) -> int:
    """A program that waits for SIGTERM and exits with 0."""
    await handle.terminated()
    return 0


@dataclass(eq=False)
class MemoryContainer:
    """A container; `emit` takes its events."""

    id: str
    image_id: str
    spec: ContainerSpec
    program: Program
    emit: Emit
    status: ContainerStatus = field(init=False)
    output: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = field(default_factory=lambda: next(_pids))
    """Of its only process, on a host of its own making."""
    _dropped_lines: int = 0
    _output_length: int = 0
    _printed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[int] | None = None
    _handle: ProgramHandle | None = None

    def __post_init__(self) -> None:
        self.status = ContainerStatus(
            id=self.id,
            name=self.spec.name,
            image_id=self.image_id,
            labels=dict(self.spec.labels),
            state="created",
            oom_killed=False,
        )

    @property
    def running(self) -> bool:
        return self._task is not None and not self.ended.is_set()

    def listed(self) -> ContainerStatus:
        """Its entry in a list, which has fewer facts than an inspection."""
        return replace(self.status, oom_killed=None, started_at=None, finished_at=None, error="")

    def start(self) -> None:
        """Start its program, unless it runs already."""
        if self.running:
            return
        self.ended.clear()
        self._change(state="running", started_at=datetime.now(UTC), exit_code=None, oom_killed=False, error="")
        self._handle = ProgramHandle(self.id, self._print)
        self._task = asyncio.create_task(self._run(self._handle), name=f"container {self.spec.name}")
        self._task.add_done_callback(self._end)
        self._emit("start")

    def fail_to_start(self, error: str) -> None:
        """Record the error; the state stays `created`, as in Docker."""
        self._change(error=error)

    async def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        self._emit("kill")
        if self._handle is not None:
            self._handle.terminate()
        try:
            async with asyncio.timeout(grace):
                await self.ended.wait()
        except TimeoutError:
            await self.kill(through_engine=True)
        self._emit("stop")

    async def kill(self, *, through_engine: bool = False) -> None:
        """SIGKILL; returns when its program has ended."""
        if through_engine:
            self._emit("kill")
        # Once: a second cancellation would break off what the program does at its end, such as closing its sockets.
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()
        await self.ended.wait()

    def removed(self) -> None:
        """End its log streams and report its removal."""
        self.ended.set()
        self._printed.set()
        self._emit("destroy")

    def run_out_of_memory(self) -> None:
        """The kernel kills some process in it for memory, not necessarily its program."""
        self._change(oom_killed=True)
        self._emit("oom")

    def pause(self) -> None:
        """Report it as paused."""
        self._change(state="paused")
        self._emit("pause")

    def last_lines(self, count: int) -> list[str]:
        """The last `count` lines of output, each with its time."""
        return self.output[-count:] if count else []

    def follow(self, tail: int) -> AsyncIterator[str]:
        """The last `tail` lines as of now, then further ones as they are printed, until it has ended."""
        return self._lines_after(self._dropped_lines + max(0, len(self.output) - tail))

    async def _lines_after(self, seen: int) -> AsyncIterator[str]:
        while True:
            self._printed.clear()
            while seen < self._dropped_lines + len(self.output):
                seen = max(seen, self._dropped_lines) + 1
                yield self.output[seen - self._dropped_lines - 1]
            if self.ended.is_set():
                return
            await self._printed.wait()

    async def _run(self, handle: ProgramHandle) -> int:
        return await self.program(self.spec, handle)

    def _end(self, task: asyncio.Task[int]) -> None:
        # A callback, not a `finally` in the task: a task that is cancelled before its first step never runs.
        if task.cancelled():
            code = _SIGKILL_EXIT
        elif (error := task.exception()) is not None:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._print(line)
            code = 1
        else:
            code = task.result()
        self._change(state="exited", exit_code=code, finished_at=datetime.now(UTC))
        self.ended.set()
        self._printed.set()
        self._emit("die", code)

    def _print(self, line: str) -> None:
        self.output.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z {line}")
        self._output_length += len(self.output[-1])
        while self._output_length > self.spec.log_bytes:
            self._output_length -= len(self.output.pop(0))
            self._dropped_lines += 1
        self._printed.set()

    def _emit(self, action: str, exit_code: int | None = None) -> None:
        self.emit(self.id, self.spec.labels, action, exit_code)

    def _change(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)
