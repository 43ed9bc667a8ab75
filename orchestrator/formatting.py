"""Pure: values as text in sentences: sizes and durations with their unit, names that callers sent."""

from typing import Final

MAX_NAME_LENGTH: Final = 80
"""Maximum length of a caller-supplied name in logs, records and errors."""
NOTE: Final = "--- "
"""Begins the lines of a followed log that no plugin printed."""
_GIB: Final = 1024**3


def quoted(text: str) -> str:
    """Caller-supplied text in quotation marks, cut to `MAX_NAME_LENGTH`."""
    return repr(text[:MAX_NAME_LENGTH])


def counted(number: int, noun: str) -> str:
    """`1 call`, `3 calls`: for nouns whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_size(size: int) -> str:
    """Bytes in the largest unit that they fill, as a manifest writes them: 1073741824 → `1 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:g} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{round(value, 2):g} GiB"


def format_duration(seconds: float) -> str:
    """A duration as one reads it: 8.3 → `8 s`, 275 → `4 min`, 4500 → `1 h 15 min`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def gib(size: int) -> str:
    """Bytes always in GiB, for sizes that are compared: 1610612736 → `1.5 GiB`."""
    return f"{size / _GIB:.1f} GiB"
