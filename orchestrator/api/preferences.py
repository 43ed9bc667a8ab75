"""What a request asks for beside its route: `Prefer` (RFC 7240). Pure."""

import re
from typing import Final

_PREFERENCE: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


def responds_async(prefer: str) -> bool:
    """Whether the `Prefer` headers, joined by commas, hold `respond-async`: the caller does not wait for the result."""
    return any(
        re.split(r"[=;]", preference, maxsplit=1)[0].strip().lower() == "respond-async"
        for preference in _PREFERENCE.findall(prefer)
    )
