"""How values stand in sentences: sizes with their unit, what a caller made up cut short. Pure."""

from typing import Final

MAX_NAME_LENGTH: Final = 80
"""Characters that are told, and kept, of what a caller sent as a name: there need not be anything of that name."""
_GIB: Final = 1024**3


def quoted(text: str) -> str:
    """What a caller sent, in quotation marks and in short."""
    return repr(text[:MAX_NAME_LENGTH])


def format_size(size: int) -> str:
    """Bytes in the largest unit that they fill, as a manifest would say them: 1073741824 → `1 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:g} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{round(value, 2):g} GiB"


def gib(size: int) -> str:
    """Bytes always in GiB, for those that are compared: 1610612736 → `1.5 GiB`."""
    return f"{size / _GIB:.1f} GiB"
