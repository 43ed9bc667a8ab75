"""What the containers of a plugin print, and its builds; a log is followed from one instance to the next."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from orchestrator.containers.engine import ContainerEngine
from orchestrator.errors import EngineError
from orchestrator.formatting import NOTE
from orchestrator.registry import PostMortem
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import Instance

_USUAL_START: Final = 1.0  # seconds until a container whose image is there has started; of a longer wait a note says so
_REOPEN_PAUSE: Final = 1.0  # seconds before a stream that broke off is opened again
_LEFT_BEHIND: Final = 5.0  # seconds after the next instance's start until a container that does not end is left
_ALL: Final = 10_000  # lines
_BACKLOG: Final = 100  # lines that may wait for a slow reader
Which = int | Literal["all"] | None
"""A generation; None for the newest."""
# Build output has none.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\S+ ")


class Instances(Protocol):
    """The instances of one plugin, each in its turn."""

    @property
    def instances(self) -> Collection[Instance]:
        """Oldest first; those that ended are among them until they are replaced."""

    @property
    def instance(self) -> Instance | None:
        """The newest one."""

    async def next_instance(self, after: Instance | None) -> Instance | None:
        """The one that replaces `after`, once there is one; None where the plugin is removed."""


class PluginLogs:
    """Those of one plugin."""

    def __init__(self, plugin: str, deps: SupervisorDeps, instances: Instances) -> None:
        self._plugin = plugin
        self._deps = deps
        self._instances = instances

    async def last(self, *, tail: int, generation: Which = None) -> str:
        """The last lines that a container printed: that of the newest instance, or of this generation. While there is
        none, those of the build for it. Of all: by their times, each with its instance. Raises `EngineError`.
        """
        if generation == "all":
            return await self._last_of_all(tail)
        chosen = self._instances.instance if generation is None else self._instance_of(generation)
        if chosen is not None and chosen.container_id:
            return await self._deps.engine.logs(chosen.container_id, tail=tail)
        return await self.build_output(tail=tail) if self._building() else ""

    async def build_output(self, *, tail: int) -> str:
        """The last lines of the last build, or of the one that is under way."""
        build_output = self._deps.builder.build_output
        return await asyncio.to_thread(build_output, self._plugin, lines=tail, running=self._building())

    def follow(self, *, tail: int, generation: Which = None) -> AsyncGenerator[str, None]:
        """The last lines and those to come: of the newest instance and of the next ones, until the plugin is removed;
        or of this generation, until its end; or of all and of those that begin meanwhile, each line with its instance.
        """
        if generation == "all":
            return follow_all(self._deps.engine, self._instances, tail=tail)
        chosen = None if generation is None else self._instance_of(generation)
        if chosen is not None:
            return follow_instance(self._deps.engine, chosen, tail=tail)
        return follow_logs(self._deps.engine, self._instances, tail=tail)

    async def _last_of_all(self, tail: int) -> str:
        lines: list[str] = []
        for each in self._instances.instances:
            if each.post_mortem is not None:
                printed = each.post_mortem.log_tail or each.post_mortem.build_output
            else:
                printed = await self._deps.engine.logs(each.container_id, tail=tail) if each.container_id else ""
            lines += [_of(each, line) for line in printed.splitlines()[-tail:]]
        lines.sort(key=_time_of)  # those of an instance without a time, of its build, come first
        return "".join(f"{line}\n" for line in lines[-tail:])

    def _instance_of(self, generation: int) -> Instance | None:
        return next((each for each in self._instances.instances if each.generation == generation), None)

    def _building(self) -> bool:
        record = self._deps.registry.get(self._plugin)
        return record is not None and record.activity is not None


async def follow_logs(engine: ContainerEngine, instances: Instances, *, tail: int) -> AsyncGenerator[str, None]:
    """The last `tail` lines and those to come, then all of the next instance, until the plugin is removed.

    Every line of a container begins with its time. Lines that begin with `--- ` are notes: an instance that is awaited,
    that ended, or that is next.
    """
    instance = instances.instance
    if instance is None:
        yield _note("no instance; waiting for one")
        instance = await instances.next_instance(None)
    elif others := [other.generation for other in instances.instances if other.ended is None and other is not instance]:
        listed = ", ".join(map(str, others))
        yield _note(f"instance {instance.generation}, the newest; {listed} not followed")
    while instance is not None:
        async for line in _Log(engine, instances, instance).follow(tail):
            yield line
        if instance.ended is not None:
            yield _ended(instance, instance.ended)
        instance, tail = await instances.next_instance(instance), _ALL
        if instance is not None:
            yield _note(f"instance {instance.generation}")
    yield _note("the plugin was removed")


async def follow_instance(engine: ContainerEngine, instance: Instance, *, tail: int) -> AsyncGenerator[str, None]:
    """The last `tail` lines of this instance and those to come, until its end, which is a note."""
    async for line in _Log(engine, _One(instance), instance).follow(tail):
        yield line
    if instance.ended is not None:
        yield _ended(instance, instance.ended)


async def follow_all(engine: ContainerEngine, instances: Instances, *, tail: int) -> AsyncGenerator[str, None]:
    """The last `tail` lines of each instance and those to come, as they come, until the plugin is removed. Which it is
    stands in brackets after the time of each line; those that begin and end meanwhile are notes.
    """
    logs = _AllLogs(engine, instances)
    following = asyncio.create_task(logs.follow(tail))
    try:
        while (line := await logs.lines.get()) is not None:
            yield line
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _AllLogs:
    """Of all instances of a plugin, in one queue, which None ends."""

    def __init__(self, engine: ContainerEngine, instances: Instances) -> None:
        self._engine = engine
        self._instances = instances
        self.lines: asyncio.Queue[str | None] = asyncio.Queue(_BACKLOG)

    async def follow(self, tail: int) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        newest, first = self._instances.instance, True
        try:
            if newest is None:
                await self.lines.put(_note("no instance; waiting for one"))
                newest = await self._instances.next_instance(None)
            while newest is not None:
                for each in self._instances.instances:
                    if each.generation not in tasks:
                        follow = self._follow(each, tail) if first else self._follow_new(each)
                        tasks[each.generation] = asyncio.create_task(follow)
                newest, first = await self._instances.next_instance(newest), False
            await self.lines.put(_note("the plugin was removed"))
            await self.lines.put(None)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _follow_new(self, instance: Instance) -> None:
        await self.lines.put(_note(f"instance {instance.generation}"))
        await self._follow(instance, _ALL)

    async def _follow(self, instance: Instance, tail: int) -> None:
        async for line in _Log(self._engine, _One(instance), instance).follow(tail):
            # Of one that has ended there are no notes any more, and the output of its build may look like one.
            is_note = line.startswith(NOTE) and instance.ended is None
            await self.lines.put(line if is_note else _of(instance, line))
        if instance.ended is not None:
            await self.lines.put(_ended(instance, instance.ended))


@dataclass(frozen=True, slots=True)
class _One:
    """An instance, which none replaces."""

    instance: Instance

    @property
    def instances(self) -> Collection[Instance]:
        return (self.instance,)

    async def next_instance(self, after: Instance | None) -> Instance | None:  # noqa: ARG002 - the protocol's
        # Its container, too, may be one that cannot be stopped.
        await self.instance.torn_down.wait()
        return None


class _Log:
    """Of one instance."""

    def __init__(self, engine: ContainerEngine, instances: Instances, instance: Instance) -> None:
        self._engine = engine
        self._instances = instances
        self._instance = instance
        self._last = ""
        """Time of the last line."""

    async def follow(self, tail: int) -> AsyncIterator[str]:
        """Its lines until it is torn down, or left behind."""
        instance = self._instance
        await _first_of(instance.started, instance.torn_down, seconds=_USUAL_START)
        if not (instance.started.is_set() or instance.torn_down.is_set()):
            if instance.ended is None:
                yield _note(f"instance {instance.generation} has no container yet; waiting for it")
            await _first_of(instance.started, instance.torn_down)
        while instance.started.is_set() and instance.post_mortem is None:
            async for line in self._unseen(self._printed(tail)):
                yield line
            tail = _ALL
            # The stream may have broken off: then the rest follows. One that is torn down has it in its post-mortem.
            await _first_of(instance.torn_down, seconds=_REOPEN_PAUSE if instance.ended is None else _LEFT_BEHIND)
            if instance.torn_down.is_set() or self._instances.instance is not instance:
                break
        if instance.post_mortem is not None:
            async for line in self._unseen(_stored(instance.post_mortem, tail)):
                yield line

    async def _unseen(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        seen = self._last
        async for line in lines:
            if found := _TIME.match(line):
                if found[0] <= seen:
                    continue
                self._last = max(self._last, found[0])
            elif seen:
                continue
            yield f"{line}\n"

    async def _printed(self, tail: int) -> AsyncIterator[str]:
        """What its container prints, until its stream ends; or some time after the next instance's start."""
        lines: asyncio.Queue[str | None] = asyncio.Queue(_BACKLOG)
        reader = asyncio.create_task(self._read(lines, tail))
        leaving = asyncio.create_task(self._leave(reader))
        try:
            while (line := await lines.get()) is not None:
                yield line
        finally:
            leaving.cancel()
            reader.cancel()
            await asyncio.gather(reader, leaving, return_exceptions=True)

    async def _read(self, lines: asyncio.Queue[str | None], tail: int) -> None:
        try:
            with contextlib.suppress(EngineError):
                async with self._engine.follow_logs(self._instance.container_id or "", tail=tail) as printed:
                    async for line in printed:
                        await lines.put(line)
        finally:
            await lines.put(None)

    async def _leave(self, reader: asyncio.Task[None]) -> None:
        # A container that could not be stopped prints on.
        await self._instances.next_instance(self._instance)
        await asyncio.sleep(_LEFT_BEHIND)
        reader.cancel()


async def _stored(report: PostMortem, tail: int) -> AsyncIterator[str]:
    for line in (report.log_tail or report.build_output).splitlines()[-tail:]:
        yield line


async def _first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Returns when one of them is set, or after so many seconds."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def _of(instance: Instance, line: str) -> str:
    """The line with its instance in brackets, after its time."""
    time = _time_of(line)
    return f"{time}[{instance.generation}] {line[len(time) :]}"


def _time_of(line: str) -> str:
    found = _TIME.match(line)
    return found[0] if found else ""


def _ended(instance: Instance, why: Verdict) -> str:
    return _note(f"instance {instance.generation} ended: {why.code}: {why.reason}")


def _note(text: str) -> str:
    return f"{NOTE}{' '.join(text.split())} ---\n"
