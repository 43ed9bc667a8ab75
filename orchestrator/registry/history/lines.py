"""Writes as lines of the journal, and back. Pure.

A line is a checksum and JSON: one that was torn or has rotted is known by itself and takes no other with it, since JSON
holds no line breaks.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from orchestrator.registry.history.writes import EventWrite, PostMortemWrite, RunWrite, Write

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(tuple[int, EventWrite | RunWrite | PostMortemWrite]).decode
_CHECKSUM: Final = b"%08x "
_LENGTH: Final = 9


@dataclass(frozen=True, slots=True)
class Lines:
    """What could be read of a journal."""

    writes: Sequence[tuple[int, Write]]
    """With their numbers, in their order."""
    damaged: int
    """Lines that say nothing any more. One at the end without its line break is none of them: it was never finished,
    and nobody was told that it is kept.
    """


def line(number: int, write: Write) -> bytes:
    """Raises `TypeError`, `ValueError` or `OverflowError` for what JSON cannot hold."""
    said = _encode((number, write))
    return _CHECKSUM % zlib.crc32(said) + said + b"\n"


def read(journal: bytes) -> Lines:
    *whole, _unfinished = journal.split(b"\n")
    writes = [write for write in map(_read, whole) if write is not None]
    return Lines(writes, len(whole) - len(writes))


def _read(text: bytes) -> tuple[int, Write] | None:
    said = text[_LENGTH:]
    if text[:_LENGTH] != _CHECKSUM % zlib.crc32(said):
        return None
    try:
        return _decode(said)
    except (TypeError, ValueError):  # of a program that knew other writes
        return None
