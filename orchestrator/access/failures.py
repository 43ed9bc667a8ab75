"""How often an address may be wrong about its key. Bounded in memory, whoever calls from wherever."""

import ipaddress
import math
from collections.abc import Callable
from time import monotonic
from typing import Final

from cachetools import TTLCache  # `limits` keeps as many addresses as come; this one forgets the oldest

MOST: Final = 10
WINDOW: Final = 60.0
"""Seconds."""
_ADDRESSES: Final = 4096


class FailedKeys:
    """Wrong keys by address, in windows of `WINDOW` seconds. `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._windows: TTLCache[str, list[float]] = TTLCache(_ADDRESSES, WINDOW, clock)

    def count(self, address: str) -> int | None:
        """Take in one more wrong key. The seconds to wait where that was one too many."""
        subject = _subject(address)
        window = self._windows.get(subject)
        if window is None:
            window = self._windows[subject] = [0, self._clock() + WINDOW]
        window[0] += 1
        return max(1, math.ceil(window[1] - self._clock())) if window[0] > MOST else None


def _subject(address: str) -> str:
    """An IPv6 caller has a whole /64 to call from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
