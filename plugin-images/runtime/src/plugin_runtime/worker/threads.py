"""The threads that the author's code runs in, and how the threads of connections hand calls to them."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from plugin_runtime.shared.processes import write_log
from plugin_runtime.tools.plugin_errors import plugin_traceback

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugin_runtime.http.connection import HttpServerConnection

SIGNALS_AT_ONCE = 4096  # more are as good as one


class Job:
    """Work for another thread, whose outcome is waited for."""

    __slots__ = ("_arguments", "_error", "_finished", "_started", "_value", "_work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._work = work
        self._arguments = arguments
        self._started = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._finished = threading.Lock()
        self._finished.acquire()

    def run(self) -> None:
        """Do the work, at most once. Never raises what it raises."""
        if self._started:
            # A signal handler of the plugin raised at the edge of the first time.
            if self._finished.locked():
                self._error = self._error or RuntimeError("a signal handler of the plugin broke the call off")
                self._finished.release()
            return
        self._started = True
        try:
            self._value = self._work(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._finished.release()

    def result(self) -> Any:
        """Wait for it. Raises what the work raised."""
        self._finished.acquire()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this frame
        return self._value


class Runnable(Protocol):
    """Work that nobody waits for here. It may be run again where a signal handler of the plugin raised in it."""

    def run(self) -> None: ...


class AuthorThreads(Protocol):
    """Runs work in a thread of the author's code."""

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of the work. Raises what it raises."""

    def submit(self, job: Runnable) -> None:
        """Have the job run after those submitted before, or beside them."""

    def attend(self, connection: HttpServerConnection, serve: Callable[[HttpServerConnection], bool]) -> bool:
        """Perhaps serve the connection's next calls. False where it is over."""


class MainThread:
    """The main thread: runs jobs one after the other, for ever. Made in it."""

    # What plugin code set up for its thread at import and in `validate` holds only here, and some libraries (signal,
    # asyncio's get_event_loop) work only here.

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self._jobs: deque[Runnable] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # The kernel may deliver a signal to another thread. Its handler runs in this one, which a byte then wakes.
        self._signals, self._signal_sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._exit: SystemExit | None = None

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of the work. Raises what it raises."""
        if threading.get_ident() == self._ident:
            return work(*arguments)
        job = Job(work, arguments)
        self.submit(job)
        return job.result()

    def submit(self, job: Runnable) -> None:
        """Have the job run after those submitted before."""
        self._jobs.append(job)
        os.eventfd_write(self._wakeup, 1)

    def attend(self, connection: HttpServerConnection, serve: Callable[[HttpServerConnection], bool]) -> bool:
        """Have the connection's next calls read and served in this thread, as long as it has nothing else to do. False
        where the connection is over.
        """
        # A call that need not be handed over is answered a fifth sooner.
        if self._jobs or connection.has_unread_bytes:
            return True
        job = Job(self._attend, (connection, serve))
        self.submit(job)
        alive: bool = job.result()
        return alive

    def run_jobs(self) -> NoReturn:
        """Run jobs for ever. Raises SystemExit where a signal handler of the plugin does between two jobs."""
        jobs = self._jobs
        poll = self._poll()
        while True:
            # A signal handler of the plugin may raise anywhere here. So a job stays on the list until it has run.
            try:
                while jobs:
                    jobs[0].run()
                    jobs.popleft()
                self._wait(poll)
            except BaseException as error:  # noqa: BLE001 - as above
                log_handler_error(error)
            if self._exit is not None:
                raise self._exit

    def _attend(self, connection: HttpServerConnection, serve: Callable[[HttpServerConnection], bool]) -> bool:
        poll = self._poll()
        poll.register(connection.fileno(), select.POLLIN)
        while len(self._jobs) == 1 and self._exit is None and not connection.has_unread_bytes:  # the one job is this
            if not self._wait(poll):
                continue
            if not connection.receive_call():
                return True  # its own thread reads on
            if not serve(connection):
                return False
        return True

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        return poll

    def _wait(self, poll: select.poll) -> bool:
        """Wait for a job or a connection; whether the connection is readable."""
        try:
            # Each time: the plugin's code may have set another, as asyncio's loop does.
            signal.set_wakeup_fd(self._signal_sink, warn_on_full_buffer=False)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wakeup in ready:
                os.eventfd_read(self._wakeup)
            if self._signals in ready:
                os.read(self._signals, SIGNALS_AT_ONCE)
            return bool(ready - {self._wakeup, self._signals})
        except SystemExit as error:
            self._exit = error
        except BaseException as error:  # noqa: BLE001 - of a signal handler
            log_handler_error(error)
        return False


def log_handler_error(error: BaseException) -> None:
    """Log what a signal handler of the plugin raised outside a tool."""
    write_log(f"a signal handler raised {type(error).__name__}\n{plugin_traceback(error)}")


class ThreadPool:
    """As many threads as runs may execute at once, each started when it is first needed. None ever ends."""

    # Libraries keep memory and threads of their own for every thread that ever called them.

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: SimpleQueue[Runnable] = SimpleQueue()
        self._idle = 0
        self._threads = 0
        self._lock = threading.Lock()
        self._start_thread()

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of the work. Raises what it raises."""
        job = Job(work, arguments)
        self.submit(job)
        return job.result()

    def submit(self, job: Runnable) -> None:
        """Have the job run as soon as a thread is free."""
        with self._lock:
            if self._idle <= 0 and self._threads < self._size:
                try:
                    self._start_thread()
                except RuntimeError as error:  # the container's limit on processes and threads
                    write_log(f"no thread could be started for a call, which waits for another: {error}\n")
            self._idle -= 1
        self._jobs.put(job)

    def attend(self, connection: HttpServerConnection, serve: Callable[[HttpServerConnection], bool]) -> bool:
        """Leave it to the connection's own thread."""
        del connection, serve
        return True

    def _start_thread(self) -> None:
        threading.Thread(target=self._run_jobs, name=f"tools-{self._threads + 1}", daemon=True).start()
        self._threads += 1
        self._idle += 1

    def _run_jobs(self) -> NoReturn:
        while True:
            self._jobs.get().run()
            with self._lock:
                self._idle += 1
