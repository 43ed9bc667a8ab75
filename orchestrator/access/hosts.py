"""Which hosts and pages may call while no key is configured. Pure.

Without keys, listening on loopback is the guard, and a web page in the browser of this machine stands behind it: it may
send POSTs to any address, and a name of its own that it has pointed at 127.0.0.1 (DNS rebinding) makes it even read the
answers. Both show in headers that a page cannot forge, `Origin` and `Host`.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's loopback, whatever a resolver says."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        bare = name.lower().removesuffix(".")
        return bare == "localhost" or bare.endswith(".localhost")


class HostRule:
    """Loopback and the names that the operator has set."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)
        self.host_allowed = lru_cache(maxsize=256)(self._host_allowed)  # asked for every request, mostly of one host

    def _host_allowed(self, host: str | None) -> bool:
        """`host`: the Host header. Without one the caller is no browser."""
        if host is None:
            return True
        name = _name(host)
        return name is not None and (is_loopback(name) or name in self._names)

    def page_allowed(self, origin: str | None, host: str | None, fetch_site: str | None) -> bool:
        """Whether the page that a request comes from is the orchestrator's own. No browser: there is no page."""
        if fetch_site is not None and fetch_site not in ("same-origin", "none"):
            return False
        if origin is None:
            return True
        authority = origin.partition("://")[2].lower()
        return bool(authority) and (authority == (host or "").lower() or _name(authority) in self._names)


def _name(authority: str) -> str | None:
    try:
        parts = urlsplit(f"//{authority}")
    except ValueError:
        return None
    return parts.hostname if parts.netloc == authority and "@" not in authority else None
