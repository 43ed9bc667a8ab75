"""A pull of a plugin's models, by whatever process, is the plugin's activity while it is MODEL_MISSING."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orchestrator.errors import ManifestError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.manifest import read_manifest
from orchestrator.models.plan import part_of, wanted_files
from orchestrator.models.sources import shown_host
from orchestrator.models.store import ModelStore
from orchestrator.registry import Activity, PluginRecord, PluginRegistry

FETCHING: Final = "fetching its models"
_INTERVAL: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Fetch:
    """`line` is empty where nothing of a plugin's is fetched now; then `complete` says whether it has all."""

    since: datetime | None = None
    line: str = ""
    complete: bool = False


async def watch_models(registry: PluginRegistry, store: ModelStore, folder_of: Callable[[str], Path | None]) -> None:
    """For ever; only such plugins' folders are read. `folder_of`: a plugin's folder by its name."""
    shown: dict[str, Activity] = {}
    while True:
        await asyncio.sleep(_INTERVAL)
        waiting = {record.name: folder_of(record.name) for record in registry.list() if _waits(record)}
        folders = {name: folder for name, folder in waiting.items() if folder is not None}
        found = await asyncio.to_thread(fetches, store, folders) if folders else {}
        for name in shown.keys() - found.keys():
            _end(registry, name, Fetch())
            del shown[name]
        for name, fetch in found.items():
            if fetch.line:
                if name not in shown:
                    _note(registry, name, FETCHING)
                shown[name] = _activity(shown.get(name), fetch)
                registry.set_activity(name, shown[name])
            elif shown.pop(name, None) is not None:
                _end(registry, name, fetch)


def fetches(store: ModelStore, folders: Mapping[str, Path]) -> dict[str, Fetch]:
    """What is fetched now, for each of these plugins whose manifest can be read."""
    under_way = {partial.sha256: partial for partial in store.partials() if partial.under_way}
    found = {}
    for name, folder in folders.items():
        try:
            # As it is now: an operator may have added the addresses since the start.
            wanted = wanted_files(read_manifest(folder).references())
        except ManifestError:
            continue
        for file in wanted:
            if (partial := under_way.get(file.sha256)) is not None:
                source = f" from {shown_host(partial.source)}" if partial.source else ""
                line = f"{file.references[0].file}: {part_of(partial.size, partial.total)}{source}"
                found[name] = Fetch(partial.since, line)
                break
        else:
            found[name] = Fetch(complete=all(store.find(file.sha256) is not None for file in wanted))
    return found


def _waits(record: PluginRecord) -> bool:
    """Whether it has no instance, or no new one, for want of a model."""
    refused = record.restart.reason_code if record.restart is not None else None
    return ReasonCode.MODEL_MISSING in (record.reason_code, refused)


def _activity(earlier: Activity | None, fetch: Fetch) -> Activity:
    if earlier is not None:
        return replace(earlier, line=fetch.line)
    now = datetime.now(UTC)
    since = min(fetch.since or now, now)
    return Activity(FETCHING, since, time.monotonic() - (now - since).total_seconds(), fetch.line)


def _end(registry: PluginRegistry, name: str, fetch: Fetch) -> None:
    registry.clear_activity(name, FETCHING)
    if fetch.complete:
        _note(registry, name, f"fetched its models; `orchestrator restart {name}` starts it with them")


def _note(registry: PluginRegistry, name: str, sentence: str) -> None:
    if registry.get(name) is not None:  # it may have been dropped while the disk was looked at
        registry.note(name, sentence)
