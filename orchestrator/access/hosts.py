"""Which hosts and pages may call while no key is configured. Pure."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's loopback. No resolver is queried."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        bare = name.lower().removesuffix(".")
        return bare == "localhost" or bare.endswith(".localhost")


class HostRule:
    """Allows loopback and the names that the operator has set."""

    # Listening on loopback does not keep web pages out: a browser of this machine is on it too.

    def __init__(self, names: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        """`origins`: of pages of other sites that may call, such as https://app.example.org."""
        self._names = frozenset(name.lower() for name in names)
        self._origins = frozenset(origins)
        self.host_allowed = lru_cache(maxsize=256)(self._host_allowed)  # runs for every request, mostly for one host

    def _host_allowed(self, host: str | None) -> bool:
        """`host`: the Host header."""
        # A page whose own name points at 127.0.0.1 (DNS rebinding) could read the answers. It cannot forge `Host`.
        if host is None:  # no browser
            return True
        name = _name(host)
        return name is not None and (is_loopback(name) or name in self._names)

    def page_allowed(self, origin: str | None, host: str | None, fetch_site: str | None) -> bool:
        """Whether a request comes from the orchestrator's own page, or from no page at all."""
        # A page may send POSTs to any address, but it cannot forge `Origin` and `Sec-Fetch-Site`.
        if origin is not None and origin.lower() in self._origins:
            return True
        if fetch_site is not None and fetch_site not in ("same-origin", "none"):
            return False
        if origin is None:
            return True
        authority = origin.partition("://")[2].lower()
        return bool(authority) and (authority == (host or "").lower() or _name(authority) in self._names)


def _name(authority: str) -> str | None:
    try:
        split = urlsplit(f"//{authority}")
    except ValueError:
        return None
    return split.hostname if split.netloc == authority and "@" not in authority else None
