"""What a request's headers ask for beside the route: `Prefer` (RFC 7240), and a run id of the caller's own. Pure."""

import re
from typing import Final

_PREFERENCE: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


def responds_async(prefer: str) -> bool:
    """Whether the `Prefer` headers, joined by commas, hold `respond-async`: the caller does not wait for the result."""
    return any(
        re.split(r"[=;]", preference, maxsplit=1)[0].strip().lower() == "respond-async"
        for preference in _PREFERENCE.findall(prefer)
    )


def is_run_id(text: str) -> bool:
    """32 hexadecimal digits in lower case."""
    return _RUN_ID.fullmatch(text) is not None
