"""Cursors: how far a reader is in the lists and streams of several hosts, each of which counts by itself. Pure.

Behind a front over one host a cursor is that host's own number, as without a front. Over several it is written
`gpu-1:120,gpu-2:88`, in the order of the hosts' names. It says all: a front stores nothing, and any front reads it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_NUMBER: Final = r"[0-9]{1,18}"
_CURSOR: Final = re.compile(rf"[a-z0-9-]{{1,63}}:{_NUMBER}(?:,[a-z0-9-]{{1,63}}:{_NUMBER})*")


class CursorError(ValueError):
    """A text that is no cursor of these hosts; says what was expected."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """`positions`: by host, the number of the last entry that the reader has; none for a host of which it has none."""

    positions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, hosts: Sequence[str]) -> "Cursor":
        """Raises `CursorError`. Hosts that are no longer there are left out."""
        if re.fullmatch(_NUMBER, text) and len(hosts) == 1:
            return cls({hosts[0]: int(text)})
        if not _CURSOR.fullmatch(text):
            example = "120" if len(hosts) == 1 else ",".join(f"{host}:120" for host in sorted(hosts)[:2])
            raise CursorError(f"expected a position such as {example}, as an earlier answer has it")
        pairs = (part.rsplit(":", 1) for part in text.split(","))
        return cls({host: int(number) for host, number in pairs if host in hosts})

    def moved(self, host: str, number: int) -> "Cursor":
        """After this entry of this host."""
        return Cursor({**self.positions, host: number})

    def text(self, hosts: Sequence[str]) -> str:
        """As answers have it; empty where the reader has nothing of any host."""
        if len(hosts) == 1:
            return str(self.positions[hosts[0]]) if hosts[0] in self.positions else ""
        return ",".join(f"{host}:{number}" for host, number in sorted(self.positions.items()))
