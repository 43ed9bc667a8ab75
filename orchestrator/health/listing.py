"""The list of all plugins as JSON text: what a change left as it was is not encoded again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from orchestrator.health.health_model import health_response, uptime_seconds
from orchestrator.registry import PluginRecord

_UPTIME: Final = b'"uptime_seconds":'
_GAP: Final = _UPTIME + b"null"
"""Inside a text its quotes would be escaped, so the first that is found is the field."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A record's JSON on both sides of its uptime, which alone changes from one look to the next."""

    record: PluginRecord
    before: bytes
    after: bytes


class HealthListing:
    """Encodes a record once for as long as it is the plugin's: with many plugins and many who ask, that is what the
    list costs.
    """

    def __init__(self) -> None:
        self._encoded: dict[str, _Encoded] = {}

    def encode(self, records: Sequence[PluginRecord], now: float) -> bytes:
        """The JSON list of `PluginHealthResponse` objects, in the order of `records`."""
        if len(self._encoded) > len(records):
            self._encoded.clear()  # plugins have gone
        return b"[" + b",".join([self._one(record, now) for record in records]) + b"]"

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
