"""One container of the memory engine: its process, its state and its output."""

import asyncio
import signal
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from orchestrator.containers.memory.program import Program, ProgramHandle
from orchestrator.containers.spec import ContainerSpec, ContainerStatus

_KILLED = 128 + signal.SIGKILL


@dataclass(eq=False)
class MemoryContainer:
    """A container. `tell` hears of every change: id, labels, Docker's word, and the exit code where there is one."""

    id: str
    image_id: str
    spec: ContainerSpec
    program: Program
    tell: Callable[[str, Mapping[str, str], str, int | None], None]
    status: ContainerStatus = field(init=False)
    output: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _dropped: int = 0
    _kept: int = 0
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
        """Whether its program runs."""
        return self._task is not None and not self.ended.is_set()

    def listed(self) -> ContainerStatus:
        """What a list says of it: less than an inspection."""
        return replace(self.status, oom_killed=None, started_at=None, finished_at=None, error="")

    def start(self) -> None:
        """Begin its program, unless it runs already."""
        if self.running:
            return
        self.ended.clear()
        self._change(state="running", started_at=datetime.now(UTC), exit_code=None, oom_killed=False, error="")
        self._handle = ProgramHandle(self.id, self._print)
        self._task = asyncio.create_task(self._run(self._handle), name=f"container {self.spec.name}")
        self._task.add_done_callback(self._end)
        self._tell("start")

    def fail_to_start(self, error: str) -> None:
        """It stays `created`, as Docker leaves it."""
        self._change(error=error)

    async def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        self._tell("kill")
        if self._handle is not None:
            self._handle.terminate()
        try:
            async with asyncio.timeout(grace):
                await self.ended.wait()
        except TimeoutError:
            await self.kill(through_engine=True)
        self._tell("stop")

    async def kill(self, *, through_engine: bool = False) -> None:
        """SIGKILL; returns when its program is gone."""
        if through_engine:
            self._tell("kill")
        if self._task is not None:
            self._task.cancel()
        await self.ended.wait()

    def leave(self) -> None:
        """It is removed."""
        self.ended.set()
        self._printed.set()
        self._tell("destroy")

    def run_out_of_memory(self) -> None:
        """The kernel has killed some process in it for memory; says nothing about which."""
        self._change(oom_killed=True)
        self._tell("oom")

    def last_lines(self, count: int) -> list[str]:
        """The last `count` lines of output, each with its time."""
        return self.output[-count:] if count else []

    def lines(self, tail: int) -> AsyncIterator[str]:
        """The last `tail` lines of now, then more as they are printed, until it has ended."""
        return self._lines_after(self._dropped + max(0, len(self.output) - tail))

    async def _lines_after(self, seen: int) -> AsyncIterator[str]:
        while True:
            self._printed.clear()
            while seen < self._dropped + len(self.output):
                seen = max(seen, self._dropped) + 1
                yield self.output[seen - self._dropped - 1]
            if self.ended.is_set():
                return
            await self._printed.wait()

    async def _run(self, handle: ProgramHandle) -> int:
        return await self.program(self.spec, handle)

    def _end(self, task: asyncio.Task[int]) -> None:
        """A callback and no `finally` in the task: one that is killed before its first step never runs."""
        if task.cancelled():
            code = _KILLED
        elif (error := task.exception()) is not None:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._print(line)
            code = 1
        else:
            code = task.result()
        self._change(state="exited", exit_code=code, finished_at=datetime.now(UTC))
        self.ended.set()
        self._printed.set()
        self._tell("die", code)

    def _print(self, line: str) -> None:
        self.output.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z {line}")
        self._kept += len(self.output[-1])
        while self._kept > self.spec.log_bytes:
            self._kept -= len(self.output.pop(0))
            self._dropped += 1
        self._printed.set()

    def _tell(self, action: str, exit_code: int | None = None) -> None:
        self.tell(self.id, self.spec.labels, action, exit_code)

    def _change(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)
