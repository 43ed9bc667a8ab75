"""Follows hosts.yaml: hosts that are added to it join, and those that are taken out leave, while the front serves."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry, HostsFileError, read_hosts_file

_INTERVAL: Final = 2.0  # seconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostsChange:
    """`changed`: hosts that leave and join again, by another address, key file, CA file or labels."""

    added: tuple[HostEntry, ...]
    removed: tuple[str, ...]
    changed: tuple[HostEntry, ...]


def difference(before: Iterable[HostEntry], after: Iterable[HostEntry]) -> HostsChange:
    """What makes one list of hosts the other. Pure."""
    old: Mapping[str, HostEntry] = {entry.name: entry for entry in before}
    new: Mapping[str, HostEntry] = {entry.name: entry for entry in after}
    return HostsChange(
        tuple(entry for name, entry in new.items() if name not in old),
        tuple(name for name in old if name not in new),
        tuple(entry for name, entry in new.items() if name in old and entry != old[name]),
    )


@asynccontextmanager
async def following(file: Path | None, hosts: Hosts, interval: float = _INTERVAL) -> AsyncIterator[None]:
    """Follow the file while entered, where there is one; it is looked at every `interval` seconds."""
    if file is None:
        yield
        return
    task = asyncio.create_task(_follow(file, hosts, hosts.entries, interval), name="hosts.yaml")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(file: Path, hosts: Hosts, known: tuple[HostEntry, ...], interval: float) -> None:
    problem = ""
    while True:
        await asyncio.sleep(interval)
        try:
            found = (await asyncio.to_thread(read_hosts_file, file)).hosts
            await _apply(difference(known, found), hosts)
            known, problem = found, ""
        except HostsFileError as error:
            if str(error) != problem:  # the hosts stay as they are
                _log.error("hosts.yaml was changed, and cannot be used: %s", error)
            problem = str(error)


async def _apply(change: HostsChange, hosts: Hosts) -> None:
    """Raises `HostsFileError` where a key or certificate of a new host cannot be read."""
    for name in change.removed:
        if name in hosts.names:  # it may have been forgotten before
            await hosts.forget(name)
    for entry in change.changed:
        if entry.name in hosts.names:
            await hosts.forget(entry.name)
        hosts.add(entry)
    for entry in change.added:
        if entry.name not in hosts.names:  # an earlier try may have come to it
            hosts.add(entry)
