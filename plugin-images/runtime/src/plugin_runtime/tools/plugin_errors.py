"""Exceptions of plugin code as text: bounded, valid UTF-8, and without the runtime's own frames."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120 - as co_filename
"""Of the whole runtime."""
MAX_MESSAGE = 2000  # characters
MAX_TRACEBACK = 16_000  # characters


def message_of(error: BaseException) -> str:
    """str() of an exception."""
    try:
        text = utf8(str(error))
    except BaseException as second:  # noqa: BLE001 - its __str__ is plugin code
        return f"<its message cannot be read: {type(second).__name__}>"
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}… ({len(text)} characters)"


def links(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what it was raised from or during, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def plugin_traceback(error: BaseException) -> str:
    """The traceback from the plugin's first frame on, formatted."""
    frames = _skip_own(error.__traceback__)
    try:
        text = utf8("".join(traceback.TracebackException(type(error), error, frames, compact=True).format()))
    except BaseException as second:  # noqa: BLE001 - formatting calls the exception's own code
        return f"{type(error).__name__} (its traceback cannot be formatted: {type(second).__name__})\n"
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n… {len(text) - MAX_TRACEBACK} characters left out …\n{text[-half:]}"


def utf8(text: str) -> str:
    """`text` with what UTF-8 cannot express replaced."""
    return text.encode("utf-8", "backslashreplace").decode()


def _skip_own(frames: TracebackType | None) -> TracebackType | None:
    """Without the frames of the runtime and of the import machinery at its head."""
    first = frames
    while first is not None and _is_own(first.tb_frame.f_code.co_filename):
        first = first.tb_next
    return first


def _is_own(filename: str) -> bool:
    return filename.startswith((OWN_FOLDER, "<frozen importlib")) or filename.endswith("importlib/__init__.py")
