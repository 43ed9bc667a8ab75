"""API keys: their stored form, and the comparison with what a caller sent. Pure."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from orchestrator.access.principal import ALL_RIGHTS, Grant, Principal, Right
from orchestrator.formatting import quoted

PREFIX: Final = "po_"  # lets secret scanners recognize a leaked key
MIN_LENGTH: Final = 32  # characters of a key that an operator made: a fast hash does not protect a short one
_HINT_LENGTH: Final = 4
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


class Role(StrEnum):
    """Names of sets of rights: VIEWER reads, OPERATOR does everything."""

    VIEWER = "viewer"
    OPERATOR = "operator"

    @property
    def rights(self) -> frozenset[Right]:
        return ALL_RIGHTS if self is Role.OPERATOR else frozenset({Right.READ})

    @property
    def grant(self) -> Grant:
        return Grant(self.rights)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The stored form of a key. `hint`: its last characters, by which people recognize it."""

    name: str
    grant: Grant
    sha256: str = field(repr=False)
    hint: str
    created: datetime
    expires: datetime | None = None
    by_proxy: bool = False
    """It has no text that anybody knows: a trusted proxy says that its user calls, by the name."""

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.grant)

    @property
    def role(self) -> Role | None:
        """The role with these rights; None where they have no such name."""
        return next((role for role in Role if role.rights == self.grant.rights), None)

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


def issue(name: str, granted: Role | Grant, now: datetime, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """Make a new key. Returns its text and its stored form. Raises `ValueError` for an invalid name."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, stored_key(text, name, granted, now, expires)


def proxy_user(name: str, granted: Role | Grant, now: datetime, expires: datetime | None = None) -> ApiKey:
    """The entry of a user that a trusted proxy names. Raises `ValueError` for an invalid name."""
    _, key = issue(name, granted, now, expires)
    return replace(key, by_proxy=True, hint="")


def stored_key(text: str, name: str, granted: Role | Grant, now: datetime, expires: datetime | None = None) -> ApiKey:
    """The stored form of the key `text`. Raises `ValueError` for an invalid name or key."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits and _ . @ - (at most 64), not {quoted(name)}")
    if len(text) < MIN_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"expected a key of at least {MIN_LENGTH} ASCII characters without spaces; `openssl rand -hex 32` makes one"
        )
    grant = granted.grant if isinstance(granted, Role) else granted
    return ApiKey(name, grant, _digest(text), text[-_HINT_LENGTH:], now, expires)


class KeyRing:
    """The keys that are valid at one moment."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)
        self.scoped = any(not key.grant.sees_every_plugin for key in self.keys)
        """Whether there are plugins that one of them must learn nothing of."""

    def __bool__(self) -> bool:
        return bool(self.keys)

    def user(self, name: str) -> ApiKey | None:
        """The entry of a trusted proxy's user."""
        return next((key for key in self.keys if key.by_proxy and key.name == name), None)

    def find(self, text: str) -> ApiKey | None:
        """The key whose text this is, expired or not; None if there is none."""
        # In constant time: all keys are compared, so that the time reveals none.
        digest, found = _digest(text), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def _digest(text: str) -> str:
    # A key is 256 random bits, which nobody finds by trying: a fast hash protects it as well as a slow one, which
    # passwords need.
    return hashlib.sha256(text.encode()).hexdigest()
