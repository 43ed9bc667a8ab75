"""What goes on for a plugin and takes minutes, with its newest line of output, in the plugin's record and events."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from orchestrator.formatting import format_duration
from orchestrator.loader.build_settings import Credentials
from orchestrator.registry import Activity, PluginRegistry

MAX_LINE: Final = 200
"""Characters of the line that is shown."""
_WRITE_INTERVAL: Final = 1.0  # seconds between two writes of the newest line
_ESCAPES: Final = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NO_CREDENTIALS: Final = Credentials({})
_log = logging.getLogger(__name__)


def shown_line(text: str) -> str:
    """The line as it is shown: what a terminal would show of it, cut at `MAX_LINE`, no credentials in its URLs."""
    # A progress bar overwrites itself by carriage returns.
    newest = next((part for part in reversed(re.split(r"[\r\n]", text)) if part.strip()), "")
    plain = _CONTROL.sub(" ", _ESCAPES.sub("", newest))
    return _NO_CREDENTIALS.mask(" ".join(plain.split()))[:MAX_LINE]


@asynccontextmanager
async def activity(
    registry: PluginRegistry, plugin: str, doing: str, *, done: str | None = None
) -> AsyncIterator[Callable[[str], None]]:
    """Show that the plugin has this going on, from the first line of output until the context is left.

    Yields the function that takes a line of output, on any thread; an empty one begins it too. The newest line is
    written once a second at most. `doing`: such as `building its image`. With `done`, such as `built its image`, events
    and the log report the beginning and, unless an error leaves the context, how long it took.
    """
    shown: Activity | None = None
    noted = False
    """Whether the events have the beginning of it: several instances that start at once do the same."""
    newest = ""
    beginning = threading.Lock()

    def note(sentence: str) -> None:
        registry.note(plugin, sentence)
        _log.info("%s: %s", plugin, sentence, extra={"plugin": plugin})

    def say(line: str) -> None:
        nonlocal shown, newest, noted
        newest = shown_line(line) or newest
        with beginning:
            if shown is None:
                record = registry.get(plugin)
                noted = record is None or record.activity is None or record.activity.what != doing
                shown = Activity(doing, datetime.now(UTC), time.monotonic(), newest)
                registry.set_activity(plugin, shown)
                if done is not None and noted:
                    note(doing)

    async def write_newest() -> None:
        nonlocal shown
        while True:
            await asyncio.sleep(_WRITE_INTERVAL)
            if shown is not None and shown.line != newest:
                shown = replace(shown, line=newest)
                registry.set_activity(plugin, shown)

    writing = asyncio.create_task(write_newest(), name=f"activity of {plugin}")
    try:
        yield say
        if shown is not None and done is not None and noted:
            note(f"{done} in {format_duration(time.monotonic() - shown.since_tick)}")
    finally:
        writing.cancel()
        registry.clear_activity(plugin, doing)
