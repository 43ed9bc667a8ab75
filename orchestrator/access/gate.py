"""Gate: may a request go on, or is it refused with a sentence. Pure, but for the count of wrong keys."""

import ipaddress
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from time import monotonic
from typing import Final, NamedTuple

from cachetools import TTLCache  # `limits` retains every address that ever calls; this drops the oldest

from orchestrator.access.hosts import HostRule
from orchestrator.access.keys import ApiKey, KeyRing
from orchestrator.access.principal import ANYONE, STRANGER, Principal, Right
from orchestrator.formatting import quoted

MAX_WRONG_KEYS: Final = 10
WINDOW_SECONDS: Final = 60.0
_MAX_ADDRESSES: Final = 4096
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOW: Final = "send `Authorization: Bearer <key>` (the command line reads the key from ORCHESTRATOR_API_KEY)"


class Caller(NamedTuple):
    """What is known of a request before it is answered; each header as it came, None if absent."""

    method: str
    address: str
    host: str | None = None
    origin: str | None = None
    fetch_site: str | None = None
    authorization: str | None = None
    user: str | None = None
    """Whom a proxy names, trusted or not."""
    on_behalf: bytes | None = None
    """Whom a front names, see `delegation`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`retry_after` in seconds."""

    status: int
    sentence: str
    error_type: str
    retry_after: int | None = None


class FailedKeys:
    """Count wrong keys per address, in windows of `WINDOW_SECONDS`. `clock`: monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # Bounded in memory, however many addresses call.
        self._windows: TTLCache[str, list[float]] = TTLCache(_MAX_ADDRESSES, WINDOW_SECONDS, clock)

    def count(self, address: str) -> int | None:
        """Count one more wrong key. Returns the seconds to wait if that is too many, else None."""
        network = _network(address)
        window = self._windows.get(network)
        if window is None:
            window = self._windows[network] = [0, self._clock() + WINDOW_SECONDS]
        # In place: to set the entry anew would start a new window.
        window[0] += 1
        return max(1, math.ceil(window[1] - self._clock())) if window[0] > MAX_WRONG_KEYS else None


def _network(address: str) -> str:
    """The address itself for IPv4; its /64 for IPv6, which one caller usually has as a whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


class Gate:
    """Judge requests to routes that are not open. `exposed`: the orchestrator listens beyond loopback, so that every
    request needs a key.
    """

    def __init__(
        self,
        hosts: HostRule,
        *,
        exposed: bool,
        failures: FailedKeys | None = None,
        proxies: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        """`proxies`: those that are believed whom they name."""
        self._proxies = tuple(proxies)
        self._trusts = lru_cache(maxsize=256)(self._is_proxy)
        self._hosts = hosts
        self._exposed = exposed
        self._failures = failures or FailedKeys()

    def judge(self, caller: Caller, right: Right, ring: KeyRing, now: datetime) -> Principal | Refusal:
        """Who calls, or why the request may not go on. `right`: what it needs, on whatever plugin it names."""
        if ring:
            return self._judge_key(caller, right, ring, now)
        if self._exposed:
            return Refusal(
                401,
                "No API key is configured, and the orchestrator listens beyond loopback. Add a key with `orchestrator "
                "keys add NAME --role operator`.",
                "KeyRequired",
            )
        return self._judge_page(caller)

    def visitor(self, caller: Caller, ring: KeyRing, now: datetime) -> Principal:
        """Who calls a route that needs no key."""
        if not ring.scoped:
            return ANYONE
        if caller.user is not None and self._trusts(caller.address):
            key = ring.user(caller.user)
        else:
            text = _key_text(caller)
            key = None if text is None else ring.find(text)
        return STRANGER if key is None or key.expired(now) else key.principal

    def _judge_page(self, caller: Caller) -> Principal | Refusal:
        if not self._hosts.host_allowed(caller.host):
            return Refusal(
                403,
                f"The Host header is {quoted(caller.host or '')}. Without an API key only loopback names are "
                "answered: call 127.0.0.1 or localhost, list the host in ORCHESTRATOR_ALLOWED_HOSTS, or add a key with "
                "`orchestrator keys add NAME`.",
                "ForeignHost",
            )
        if caller.method not in _READS and not self._hosts.page_allowed(caller.origin, caller.host, caller.fetch_site):
            return Refusal(
                403,
                f"The request comes from a page of another site ({quoted(caller.origin or 'cross-site')}). Without an "
                "API key only the orchestrator's own page may send it.",
                "ForeignPage",
            )
        return ANYONE

    def _judge_key(self, caller: Caller, right: Right, ring: KeyRing, now: datetime) -> Principal | Refusal:
        if caller.user is not None and self._trusts(caller.address):
            return _judge_user(caller.user, right, ring, now)
        text = _key_text(caller)
        if text is None:
            return Refusal(401, f"An API key is required: {_HOW}.", "KeyRequired")
        key = ring.find(text)
        # A right key passes however many wrong ones its address has sent: 256 bits are not found by trying, and a
        # caller that shares an address with a mistaken script must not be locked out by it.
        if key is None or key.expired(now):
            if wait := self._failures.count(caller.address):
                sentence = (
                    f"Too many wrong API keys were sent from this address: more than {MAX_WRONG_KEYS} within "
                    f"{WINDOW_SECONDS:g} s. Try again in {wait} s."
                )
                return Refusal(429, sentence, "TooManyWrongKeys", wait)
            sentence = "This API key is not known" if key is None else f"The API key {key.name!r} has expired"
            return Refusal(401, f"{sentence}. With another key, {_HOW}.", "KeyRefused")
        principal = key.principal
        return principal if principal.may(right) else _too_small(key, right)

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
        return any((mapped or parsed) in network for network in self._proxies)


def _judge_user(user: str, right: Right, ring: KeyRing, now: datetime) -> Principal | Refusal:
    """Of a user whom a trusted proxy names: the proxy has seen to who it is."""
    key = ring.user(user)
    if key is None or key.expired(now):
        which = "is not known here" if key is None else "has expired"
        how = "Add it with `orchestrator keys add NAME --by-proxy`."
        return Refusal(403, f"The user {quoted(user)}, whom the proxy names, {which}. {how}", "UnknownUser")
    principal = key.principal
    return principal if principal.may(right) else _too_small(key, right)


def _key_text(caller: Caller) -> str | None:
    scheme, _, text = (caller.authorization or "").partition(" ")
    return text.strip() or None if scheme.lower() == "bearer" else None


def _too_small(key: ApiKey, right: Right) -> Refusal:
    has = f"has the role {key.role}" if key.role else f"may {', '.join(sorted(key.grant.rights))}"
    return Refusal(
        403,
        f"The API key {key.name!r} {has}; this needs the right to {right}, which the role operator has too.",
        "RoleTooSmall",
    )
