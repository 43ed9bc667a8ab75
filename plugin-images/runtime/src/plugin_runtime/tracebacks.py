"""A traceback as the plugin's author wants it: from the plugin's first frame on, and bounded."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

from plugin_runtime.failures import utf8

if TYPE_CHECKING:
    from types import TracebackType

OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120 - compared with co_filename
MAX_TRACEBACK = 16_000


def plugin_traceback(error: BaseException) -> str:
    """Formatted. The runtime's and the import machinery's frames at its head are left out."""
    frames = _skip_own(error.__traceback__)
    try:
        text = utf8("".join(traceback.TracebackException(type(error), error, frames, compact=True).format()))
    except BaseException as second:  # noqa: BLE001 - formatting calls the exception's own code
        return f"{type(error).__name__} (its traceback cannot be formatted: {type(second).__name__})\n"
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n… {len(text) - MAX_TRACEBACK} characters left out …\n{text[-half:]}"


def _skip_own(frames: TracebackType | None) -> TracebackType | None:
    first = frames
    while first is not None and _is_own(first.tb_frame.f_code.co_filename):
        first = first.tb_next
    return first


def _is_own(filename: str) -> bool:
    return filename.startswith((OWN_FOLDER, "<frozen importlib")) or filename.endswith("importlib/__init__.py")
