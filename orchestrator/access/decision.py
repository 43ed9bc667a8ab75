"""What becomes of a request before any route sees it: it may go on, or is refused with a sentence.

Pure, but for the count of wrong keys.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from orchestrator.access.failures import FailedKeys
from orchestrator.access.hosts import HostRule
from orchestrator.access.keys import KeyRing
from orchestrator.formatting import quoted

_OPEN: Final = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""They hold nothing of this host but the names of plugins that are starting; the description of the API is the same
everywhere.
"""
_OPEN_BELOW: Final = ("/assets/", "/docs-assets/")
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOW: Final = "send `Authorization: Bearer <key>` (the command line takes it from ORCHESTRATOR_API_KEY)"


class Caller(NamedTuple):
    """What is known of a request before it is answered; each header as it came, None where there is none."""

    method: str
    path: str
    address: str
    host: str | None = None
    origin: str | None = None
    fetch_site: str | None = None
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """`retry_after` in seconds."""

    status: int
    sentence: str
    error_type: str
    retry_after: int | None = None


class Gate:
    """`exposed`: it listens beyond loopback, so that nothing is answered without a key."""

    def __init__(self, hosts: HostRule, *, exposed: bool, failures: FailedKeys | None = None) -> None:
        self._hosts = hosts
        self._exposed = exposed
        self._failures = failures or FailedKeys()

    def judge(self, caller: Caller, ring: KeyRing, now: datetime) -> Refusal | None:
        """None where the request may go on."""
        if caller.path in _OPEN or caller.path.startswith(_OPEN_BELOW):
            return None
        if ring:
            return self._judge_key(caller, ring, now)
        if self._exposed:
            return Refusal(
                401,
                "It listens beyond loopback, and no API key is configured any more: add one with `orchestrator keys "
                "add NAME --role operator`.",
                "KeyRequired",
            )
        return self._judge_page(caller)

    def _judge_page(self, caller: Caller) -> Refusal | None:
        if not self._hosts.host_allowed(caller.host):
            return Refusal(
                403,
                f"The Host header says {quoted(caller.host or '')}. Without an API key only loopback names are "
                "answered: call 127.0.0.1 or localhost, name the host in ORCHESTRATOR_ALLOWED_HOSTS, or add a key with "
                "`orchestrator keys add NAME`.",
                "ForeignHost",
            )
        if caller.method not in _READS and not self._hosts.page_allowed(caller.origin, caller.host, caller.fetch_site):
            return Refusal(
                403,
                f"The request comes from another site's page ({quoted(caller.origin or 'cross-site')}). Without an "
                "API key only the orchestrator's own page may send it.",
                "ForeignPage",
            )
        return None

    def _judge_key(self, caller: Caller, ring: KeyRing, now: datetime) -> Refusal | None:
        scheme, _, text = (caller.authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            return Refusal(401, f"An API key is needed: {_HOW}.", "KeyRequired")
        key = ring.find(text.strip())
        # A right key passes, however many wrong ones its address has sent: 256 bits are not found by trying, and who
        # shares an address with a mistaken script must not be shut out by it.
        if key is None or key.expired(now):
            if wait := self._failures.count(caller.address):
                return Refusal(429, f"Too many wrong API keys came from here; wait {wait} s.", "TooManyWrongKeys", wait)
            sentence = "This API key is not known here" if key is None else f"The API key {key.name!r} has expired"
            return Refusal(401, f"{sentence}. With another one, {_HOW}.", "KeyRefused")
        if not key.role.may(caller.method):
            return Refusal(
                403,
                f"The API key {key.name!r} has the role {key.role}; this needs the role operator.",
                "RoleTooSmall",
            )
        return None
