"""HealthListing: the list of all plugins as JSON text, encoded once for as long as nothing changes but uptimes."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Final, NamedTuple

from pydantic import BaseModel

from orchestrator.health.health_model import health_response, uptime_seconds
from orchestrator.registry import InstanceRecord, PluginRecord

_UPTIME: Final = b'"uptime_seconds":'
_GAP: Final = _UPTIME + b"null"  # inside a text its quotes would be escaped, so the first match is the field
_MAX_UPTIME_LAG: Final = 0.05  # seconds that an uptime may be behind where nothing else has changed


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A record's JSON around its uptimes, which alone change between two requests."""

    record: PluginRecord
    texts: tuple[bytes, ...]
    """One more than uptimes."""
    uptimes: tuple[PluginRecord | InstanceRecord, ...]
    """Whose uptimes, in the order of the text."""

    def at(self, now: float) -> bytes:
        parts = [self.texts[0]]
        for subject, text in zip(self.uptimes, self.texts[1:], strict=True):
            seconds = uptime_seconds(subject, now)
            parts += (b"null" if seconds is None else repr(seconds).encode(), text)
        return b"".join(parts)


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
            # Records are immutable: the same objects make the same text.
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
        if record.activity is not None:  # its sentence changes with the time
            return health_response(record, now).model_dump_json().encode()
        known = self._encoded.get(record.name)
        if known is None or known.record is not record:
            known = self._encoded[record.name] = _encoded(record, now)
        return known.at(now)


class _Encoder:
    """Joins models' JSON, without their uptimes."""

    def __init__(self) -> None:
        self.texts = [b""]
        self.uptimes: list[PluginRecord | InstanceRecord] = []

    def write(self, text: bytes) -> None:
        self.texts[-1] += text

    def object(
        self, model: BaseModel, subject: PluginRecord | InstanceRecord, more: frozenset[str] = frozenset()
    ) -> None:
        """The model's JSON object; left open where there is `more`: its last fields, which are to be written next."""
        model = model.model_copy(update={"uptime_seconds": None})
        before, _, after = model.model_dump_json(exclude=set(more)).encode().partition(_GAP)
        self.write(before + _UPTIME)
        self.uptimes.append(subject)
        self.texts.append(after.removesuffix(b"}") if more else after)


def _encoded(record: PluginRecord, now: float) -> _Encoded:
    response, encoder = health_response(record, now), _Encoder()
    encoder.object(response, record, more=frozenset({"instances", "candidate"}))
    encoder.write(b',"instances":[')
    for at, (report, instance) in enumerate(zip(response.instances, record.instances, strict=True)):
        encoder.write(b"," if at else b"")
        encoder.object(report, instance)
    encoder.write(b'],"candidate":')
    if response.candidate is None or record.candidate is None:
        encoder.write(b"null")
    else:
        encoder.object(response.candidate, record.candidate)
    encoder.write(b"}")
    return _Encoded(record, tuple(encoder.texts), tuple(encoder.uptimes))
