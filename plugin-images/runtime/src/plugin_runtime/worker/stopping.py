"""SIGTERM → the plugin's `close`: after the runs in flight, which are cancelled and then given up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from plugin_runtime import run_context
from plugin_runtime.run_context import GivenUp
from plugin_runtime.shared.processes import write_log
from plugin_runtime.tools.awaiting import is_awaitable, wait_for_set_up
from plugin_runtime.tools.plugin_errors import plugin_traceback
from plugin_runtime.worker.threads import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.worker.runs import RunTable
    from plugin_runtime.worker.threads import MainThread

RUN_GRACE_SECONDS = 0.5
"""For the runs in flight to end by themselves. The container's own grace, which the worker does not know, is 2 s by
default.
"""


class Stopping:
    """Calls `close` in the main thread, then ends the process. Nothing that `close` raises or returns matters."""

    # Without a `close` a SIGTERM ends the process at once, as it does by itself.

    def __init__(self, close: Callable[[], Any], main_thread: MainThread, runs: RunTable) -> None:
        self._close = close
        self._main_thread = main_thread
        self._runs = runs
        self._requested = False
        self._giving_up = False
        self._closing = threading.Event()

    def install(self) -> None:
        """Handle SIGTERM from now on. Call it in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        # A process that the plugin forks ends by SIGTERM as ever.
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))

    def _on_signal(self, *_: object) -> None:
        # In the main thread, between two instructions of whatever it executes. Nothing here waits for a lock.
        if self._giving_up and run_context.current.get() is not None:
            self._giving_up = False
            raise GivenUp
        if self._requested:
            return
        self._requested = True
        self._runs.cancel_all()
        try:
            threading.Thread(target=self._end_runs, name="stopping", daemon=True).start()
        except RuntimeError:  # the container's limit on processes and threads
            self._main_thread.submit(Job(self._close_and_exit, ()))

    def _end_runs(self) -> None:
        idle = self._runs.wait_until_idle(RUN_GRACE_SECONDS)
        self._main_thread.submit(Job(self._close_and_exit, ()))
        main = threading.main_thread().ident
        while not idle and not self._closing.is_set() and main is not None:
            # What the tool in the main thread waits for or computes is interrupted, unless it is in native code.
            self._giving_up = True
            signal.pthread_kill(main, signal.SIGTERM)
            self._closing.wait(RUN_GRACE_SECONDS)

    def _close_and_exit(self) -> NoReturn:
        self._closing.set()
        try:
            returned = self._close()
            if is_awaitable(returned):
                wait_for_set_up(returned)
        except BaseException as error:  # noqa: BLE001 - plugin code
            write_log(f"close() raised {type(error).__name__}\n{plugin_traceback(error)}")
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue
        os._exit(0)
