"""XID numbers: the NVIDIA driver's own error reports, in the kernel's log.

NVML hands XIDs only to a process that was waiting when they came; the log still has them for one that asks later.
"""

import os
import re
from collections.abc import Iterable

_XID = re.compile(r"NVRM: Xid \(PCI:(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\): (?P<xid>\d+)")
_RECORD = 8192
"""Bytes; the kernel's own bound on a record of its log."""
_MOST_RECORDS = 200_000


def last_xids() -> dict[str, int]:
    """PCI address (`0000:65:00`, small letters, without the function) → its last XID. Empty where the log cannot be
    read: most systems show it to root only.
    """
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        return parse_xids(_records(log))
    finally:
        os.close(log)


def parse_xids(records: Iterable[str]) -> dict[str, int]:
    """From records of the log, oldest first."""
    found: dict[str, int] = {}
    for record in records:
        if (xid := _XID.search(record)) is not None:
            found[xid_key(xid["bus"])] = int(xid["xid"])
    return found


def xid_key(bus_id: str) -> str:
    """A PCI address as `last_xids` keys it; NVML writes eight digits for the domain, the kernel four."""
    return bus_id.lower().partition(".")[0][-len("0000:00:00") :]


def _records(log: int) -> Iterable[str]:
    for _ in range(_MOST_RECORDS):
        try:
            record = os.read(log, _RECORD)
        except BlockingIOError:  # the end of what there is
            return
        except BrokenPipeError:  # overwritten while we read: the next read goes on behind it
            continue
        except OSError:
            return
        yield record.decode("utf-8", "replace")
