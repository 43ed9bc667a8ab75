"""The list of all plugins as JSON text, of which only changed records are encoded again."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Final, NamedTuple

from msgspec.structs import replace

from orchestrator.health.health_model import health_response, uptime_seconds
from orchestrator.registry import PluginRecord

_UPTIME: Final = b'"uptime_seconds":'
_GAP: Final = _UPTIME + b"null"
"""Inside a text its quotes would be escaped, so the first match is the field."""
_MAX_UPTIME_LAG: Final = 0.05
"""Seconds that an uptime may be behind where nothing else has changed."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A record's JSON before and after its uptime, which alone changes between two requests."""

    record: PluginRecord
    before: bytes
    after: bytes


class _Answer(NamedTuple):
    """The list as it was answered last, and when (monotonic clock, seconds)."""

    records: Sequence[PluginRecord]
    text: bytes
    at: float


class HealthListing:
    """Encodes each record once, for as long as it is the plugin's newest."""

    # With many plugins and many readers, encoding is what the list costs.

    def __init__(self) -> None:
        self._encoded: dict[str, _Encoded] = {}
        self._last = _Answer((), b"[]", float("-inf"))

    def encode(self, records: Sequence[PluginRecord], now: float) -> bytes:
        """The JSON list of `PluginHealthResponse` objects, in the order of `records`."""
        last = self._last
        if (
            now - last.at > _MAX_UPTIME_LAG
            or len(records) != len(last.records)
            or not all(map(is_, records, last.records))
        ):
            if len(self._encoded) > len(records):
                self._encoded.clear()  # of plugins that were removed
            text = b"[" + b",".join([self._one(record, now) for record in records]) + b"]"
            self._last = last = _Answer(records, text, now)
        return last.text

    def _one(self, record: PluginRecord, now: float) -> bytes:
        known = self._encoded.get(record.name)
        if known is None or known.record is not record:
            known = self._encoded[record.name] = _encoded(record, now)
        seconds = uptime_seconds(record, now)
        return known.before + (b"null" if seconds is None else repr(seconds).encode()) + known.after


def _encoded(record: PluginRecord, now: float) -> _Encoded:
    text = health_response(replace(record, ready_tick=None), now).model_dump_json().encode()
    before, _, after = text.partition(_GAP)
    return _Encoded(record, before + _UPTIME, after)
