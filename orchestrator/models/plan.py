"""Decisions about model files: what to fetch, how a transfer goes on, what may be removed. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Final, Literal

from orchestrator.formatting import format_size

PARTIAL_AGE: Final = timedelta(days=7)
"""A partial file that nobody has written to for this long is removed, also one that a manifest names."""
SPACE_RESERVE: Final = 256 * 1024**2
"""Bytes of the disk that a pull leaves free: the state folder may be on it."""
MAX_RETRIES: Final = 5
"""Attempts in a row that bring nothing new, after which an address is given up."""
RATE_WINDOW: Final = 60.0  # seconds
MIN_RATE: Final = 1024
"""Bytes a second, over each window, below which a transfer is given up: a mirror may be faster."""
_MAX_DELAY: Final = 30.0  # seconds
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


# What to fetch


@dataclass(frozen=True, slots=True)
class Reference:
    """A plugin's model, as its manifest declares it. `urls` is empty where it has no `from`."""

    plugin: str
    model: str
    path: str
    sha256: str | None = None
    urls: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One file to fetch, for all its references."""

    sha256: str
    urls: tuple[str, ...]
    references: tuple[Reference, ...]

    @property
    def label(self) -> str:
        """A name for people: that of the first plugin that declares it."""
        return f"{self.references[0].plugin}: {self.references[0].file}"


def wanted_files(references: Iterable[Reference]) -> list[WantedFile]:
    """Each file once, with the addresses of all its references in their order."""
    same: dict[str, list[Reference]] = {}
    for reference in references:
        if reference.sha256 is not None and reference.urls:
            same.setdefault(reference.sha256, []).append(reference)
    return [
        WantedFile(sha256, tuple(dict.fromkeys(url for reference in found for url in reference.urls)), tuple(found))
        for sha256, found in same.items()
    ]


# How a transfer goes on


def part_of(done: int, total: int | None) -> str:
    """Bytes as a part of all: `1.2 GiB of 3 GiB (40 %)`."""
    if total is None:
        return format_size(done)
    return f"{format_size(done)} of {format_size(total)} ({100 * done // max(total, 1)} %)"


def resume_headers(size: int, url: str, earlier_url: str, validator: str) -> dict[str, str]:
    """The request headers for the rest of a file of which `size` bytes are there. `validator`: of the answer that
    brought the latest of them, from `earlier_url`.
    """
    if size == 0:
        return {}
    headers = {"Range": f"bytes={size}-"}
    # Another address has no such tag. Whether its bytes fit is for the hash to say, as everywhere.
    if validator and url == earlier_url:
        headers["If-Range"] = validator
    return headers


def validator_of(headers: Mapping[str, str]) -> str:
    """What If-Range may hold: a strong ETag; else the date, which HTTP allows; else nothing."""
    etag = headers.get("etag", "")
    if etag.startswith('"') and etag.endswith('"') and len(etag) > 2:
        return etag
    return "" if etag else headers.get("last-modified", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do with a server's answer.

    `append`: the body goes on where the file ends. `restart`: the body is the whole file. `again`: request it once
    more from the start. `refused`: no bytes, for `reason`; `transient` if that may pass, after `delay` seconds where
    the server says so.
    """

    action: Literal["append", "restart", "again", "refused"]
    total: int | None = None
    """Bytes of the whole file; None where unknown."""
    reason: str = ""
    transient: bool = False
    delay: float | None = None


def judge_answer(status: int, headers: Mapping[str, str], size: int, now: datetime) -> Answer:
    """The answer to a request for what comes after `size` bytes. `headers`: names in small letters."""
    match status:
        case 200:
            return Answer("restart", total=_number(headers.get("content-length", "")))
        case 206 if size > 0:
            first, total = _content_range(headers.get("content-range", ""))
            return Answer("append", total=total) if first == size else Answer("again")
        case 416 if size > 0:
            return Answer("again")
        case 401 | 403:
            return Answer("refused", reason=f"it refuses access ({status})")
        case 404 | 410:
            return Answer("refused", reason=f"it has no such file ({status})")
        case _:
            transient = status in _TRANSIENT
            delay = _retry_after(headers.get("retry-after", ""), now) if transient else None
            return Answer("refused", reason=f"it answered {status}", transient=transient, delay=delay)


class RateFloor:
    """Watches the rate of a transfer. Times in seconds, of any clock."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._bytes = 0

    def add(self, size: int, now: float) -> str:
        """What is wrong, once a window has passed in which too little came; empty otherwise."""
        self._bytes += size
        passed, got = now - self._since, self._bytes
        if passed < RATE_WINDOW:
            return ""
        self._since, self._bytes = now, 0
        if got >= MIN_RATE * passed:
            return ""
        return f"it sends less than {format_size(MIN_RATE)} a second ({format_size(got)} in {passed:.0f} s)"


def retry_delay(attempt: int, asked: float | None, jitter: float) -> float:
    """Seconds before the next attempt; `attempt` counts from 1, `jitter` is between 0 and 1."""
    backoff = 0.5 * 2.0 ** (attempt - 1)
    return min(_MAX_DELAY, max(backoff, asked or 0.0)) * (1 + 0.25 * jitter)


def missing_space(free: int, needed: int) -> int:
    """Bytes that a disk with `free` lacks for `needed` more; 0 where they fit."""
    return max(0, needed + SPACE_RESERVE - free) if needed > 0 else 0


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _content_range(text: str) -> tuple[int | None, int | None]:
    """`bytes 100-199/200` → first byte, total."""
    span, _, total = text.removeprefix("bytes ").partition("/")
    return _number(span.partition("-")[0].strip()), _number(total.strip())


def _retry_after(text: str, now: datetime) -> float | None:
    if (seconds := _number(text.strip())) is not None:
        return float(seconds)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):  # no date; a date without a zone
        return None


# What may be removed


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A complete file of the store."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file that is not complete. `total`: bytes of the whole, None where unknown; `since`: when its pull began."""

    sha256: str
    size: int
    modified: datetime
    under_way: bool
    total: int | None = None
    since: datetime | None = None
    source: str = ""
    """Where it comes from, as `shown_url`."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may be removed, and the unused files that stay because an instance has them mounted."""

    files: tuple[StoredFile, ...]
    partials: tuple[PartialFile, ...]
    mounted: tuple[StoredFile, ...]


def garbage(
    files: Iterable[StoredFile],
    partials: Iterable[PartialFile],
    *,
    named: Collection[str],
    mounted: Collection[str],
    now: datetime,
) -> Garbage:
    """`named`: hashes in manifests; `mounted`: hashes that living instances use."""
    unused = [file for file in files if file.sha256 not in named]
    return Garbage(
        files=tuple(file for file in unused if file.sha256 not in mounted),
        partials=tuple(
            partial
            for partial in partials
            if not partial.under_way and (partial.sha256 not in named or now - partial.modified > PARTIAL_AGE)
        ),
        mounted=tuple(file for file in unused if file.sha256 in mounted),
    )
