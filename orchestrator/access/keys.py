"""API keys: what one is, and whether what a caller sent is one. Pure.

A key is 256 random bits, so nobody finds it by trying, and a fast hash (SHA-256) keeps it as well as a slow one would:
slow hashes are for what people can remember. What is stored cannot be turned back into the key.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from orchestrator.formatting import quoted

PREFIX: Final = "po_"
"""So that a key is known for one where it lies about: secret scanners go by it."""
SHORTEST_GIVEN: Final = 32
"""Characters of a key that an operator made: a fast hash is no guard for a short one."""
_HINT: Final = 4
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


class Role(StrEnum):
    """VIEWER reads (GET, HEAD); OPERATOR does everything."""

    VIEWER = "viewer"
    OPERATOR = "operator"

    def may(self, method: str) -> bool:
        return self is Role.OPERATOR or method in ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, as it is kept. `hint`: its last characters, for people to know it by."""

    name: str
    role: Role
    sha256: str = field(repr=False)
    hint: str
    created: datetime
    expires: datetime | None = None

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


def issue(name: str, role: Role, now: datetime, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A new key and what is kept of it. Raises `ValueError` for a name that is none."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, keep(text, name, role, now, expires)


def keep(text: str, name: str, role: Role, now: datetime, expires: datetime | None = None) -> ApiKey:
    """What is kept of the key `text`. Raises `ValueError` for a name or a key that is none."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits and _ . @ - (at most 64), not {quoted(name)}")
    if len(text) < SHORTEST_GIVEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"expected a key of at least {SHORTEST_GIVEN} ASCII characters without spaces; `openssl rand -hex 32` "
            "makes one"
        )
    return ApiKey(name, role, _digest(text), text[-_HINT:], now, expires)


class KeyRing:
    """The keys that count at one moment."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, text: str) -> ApiKey | None:
        """The key that `text` is, expired or not. Takes as long whichever it is, and whether it is any."""
        digest, found = _digest(text), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
