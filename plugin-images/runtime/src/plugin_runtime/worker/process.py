"""The program of the worker process: starts the plugin, reports to the supervisor, and serves every connection."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from plugin_runtime.shared.processes import DUMP_SIGNAL, FAILED, READY, write_log
from plugin_runtime.shared.sockets import listen
from plugin_runtime.startup.checks import check_limits
from plugin_runtime.startup.loading import StartFailure, start_plugin
from plugin_runtime.tools.pids_limit import PidsLimit
from plugin_runtime.tools.scratch import Scratch
from plugin_runtime.worker.runs import RunTable
from plugin_runtime.worker.stopping import Stopping
from plugin_runtime.worker.threads import MainThread, ThreadPool
from plugin_runtime.worker.tool_service import ToolService

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from plugin_runtime.shared.batch_counts import SharedBatchCounts
    from plugin_runtime.shared.cgroup import Cgroup
    from plugin_runtime.shared.environment import Environment
    from plugin_runtime.shared.run_table import SharedRunTable
    from plugin_runtime.startup.checks import Check
    from plugin_runtime.startup.failures import Failure
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.worker.batching import Batches
    from plugin_runtime.worker.threads import AuthorThreads

ACCEPT_RETRY_SECONDS = 0.1
THREAD_RETRIES = 10
FLUSH_SECONDS = 0.1
"""After which printed text without a line end is flushed."""


class SupervisorLink:
    """Reports to the supervisor: one line of JSON each, from any thread."""

    def __init__(self, reports: socket.socket) -> None:
        self._reports = reports
        self._lock = threading.Lock()

    def report(self, **changes: Any) -> None:
        """Send what changed."""
        # A supervisor that has died takes this process with it; until then nobody reads.
        with contextlib.suppress(OSError), self._lock:
            self._reports.sendall(msgspec.json.encode(changes) + b"\n")

    def report_checks(self, checks: list[Check]) -> None:
        """All checks so far."""
        self.report(checks=[check._asdict() for check in checks])


class KillCount:
    """The kernel's counter of out-of-memory kills."""

    # `on_change` reports to the supervisor, which by itself checks the counter once a second at most.

    def __init__(self, cgroup: Cgroup, on_change: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._on_change = on_change
        self._known = 0

    def now(self) -> int:
        """Kills since the container's start; 0 where the kernel does not say."""
        kills = self._cgroup.oom_kills() or 0
        if kills != self._known:
            self._known = kills
            self._on_change()
        return kills


class FlushedSoon(io.TextIOWrapper):
    """Text that is flushed at each line end, and a moment after what ends no line, such as a prompt."""

    # Not unbuffered (-u): the two writes of one print would mix with those of other threads.

    def __init__(self, descriptor: int, errors: str) -> None:
        # Of its own, since Python's was made before the descriptor became a pipe.
        super().__init__(open(descriptor, "wb", closefd=False), "utf-8", errors, line_buffering=True)  # noqa: SIM115
        self._unfinished = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_thread = True
        os.register_at_fork(after_in_child=self._forget_thread)

    def write(self, text: str) -> int:
        written = super().write(text)
        if not text.endswith("\n") and not self._unfinished.is_set():
            self._flush_soon()
        return written

    def _flush_soon(self) -> None:
        if self._thread is None and self._has_thread:
            # One for good: a thread for each would have to be had when there are no more.
            thread = threading.Thread(target=self._flush_for_ever, args=(self._unfinished,), name="flush", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._has_thread = False
            else:
                self._thread = thread
        if self._has_thread:
            self._unfinished.set()
        else:
            self.flush()

    def _flush_for_ever(self, unfinished: threading.Event) -> NoReturn:
        while True:
            unfinished.wait()
            time.sleep(FLUSH_SECONDS)
            unfinished.clear()
            # A plugin may have closed it; nobody reads its traceback.
            with contextlib.suppress(OSError, ValueError):
                self.flush()

    def _forget_thread(self) -> None:
        self._unfinished, self._thread = threading.Event(), None


def run(environment: Environment, cgroup: Cgroup, runs: SharedRunTable, reports: socket.socket, stacks: int) -> None:
    """Start the plugin and serve its tools for ever. Returns if it could not start."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = FlushedSoon(descriptor, getattr(getattr(sys, name), "errors", "backslashreplace"))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)  # libraries go back to it
    if environment.code_dir is not None:
        add_code_folder(environment.code_dir, sys.path)
    link = SupervisorLink(reports)
    pids_limit, scratch = PidsLimit(cgroup), Scratch(Path(environment.scratch_dir), environment.max_scratch)

    def advice(error: BaseException) -> str:
        return pids_limit.advice(error) or scratch.advice(error)

    try:
        # Before any code of the plugin: without limits it could take the whole host down.
        require_limits(environment.limits, cgroup.limits())
        plugin = start_plugin(environment, link.report_checks, advice)
    except StartFailure as problem:
        write_log(f"{environment.name} cannot start: {problem.failure.code}: {problem}\n{problem.traceback or ''}")
        link.report(
            phase=FAILED,
            reason_code=problem.failure.code,
            reason=problem.failure.reason,
            traceback=problem.traceback,
        )
        return
    kills = KillCount(cgroup, on_change=lambda: link.report(killed=True))
    main_thread = MainThread()
    threads = main_thread if environment.concurrency == 1 else ThreadPool(environment.concurrency)
    table = RunTable(runs)
    if plugin.close is not None:
        Stopping(plugin.close, main_thread, table).install()
    service = ToolService(
        environment,
        plugin.tools,
        table,
        kills.now,
        scratch=scratch,
        advice=advice,
        gpu_loss=find_gpu_loss(environment),
        threads=threads,
        batches=batches_of(plugin.tools, threads, table, runs.batches, at_once=environment.concurrency),
    )
    listener = listen(environment.tools_socket)
    threading.Thread(target=accept_for_ever, args=(listener, service), name="accept", daemon=True).start()
    link.report(phase=READY, tools=[tool.document() for tool in plugin.tools.values()])
    main_thread.run_jobs()


def batches_of(
    tools: Mapping[str, Tool], threads: AuthorThreads, runs: RunTable, counts: SharedBatchCounts, *, at_once: int
) -> dict[str, Batches]:
    """Those of every batched tool."""
    batched = {name: tool for name, tool in tools.items() if tool.batch is not None}
    if not batched:
        return {}
    from plugin_runtime.worker.batching import Batches  # noqa: PLC0415 - most plugins need not pay for it

    return {
        name: Batches(tool, threads, runs, partial(counts.add, number), at_once=at_once)
        for number, (name, tool) in enumerate(batched.items())
    }


def require_limits(wanted: Mapping[str, float], found: Mapping[str, float | None]) -> None:
    """Raises StartFailure where the kernel does not hold the container to what it must be held to."""
    failure = check_limits(wanted, found)
    if failure is not None:
        raise StartFailure(failure)


def find_gpu_loss(environment: Environment) -> Callable[[BaseException], Failure | None]:
    """The lost GPU that led to what a tool raised; always None for a plugin without GPUs."""
    if not environment.requires_gpu:
        return lambda _: None
    from plugin_runtime.startup.gpu_probe import GpuLoss  # noqa: PLC0415 - a plugin without a GPU need not pay for it

    return GpuLoss().after


def add_code_folder(folder: str, path: list[str]) -> None:
    """Insert the plugin's folder before the installed packages and after the standard library."""
    # A plugin's json.py must not replace the standard library's.
    installed = (index for index, entry in enumerate(path) if entry.endswith("site-packages"))
    path.insert(next(installed, len(path)), folder)


def accept_for_ever(listener: socket.socket, service: ToolService) -> NoReturn:
    """One thread per connection; callers reuse theirs."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError as error:  # out of file descriptors: the plugin's affair, and it may pass
            write_log(f"a connection could not be accepted: {error}\n")
            time.sleep(ACCEPT_RETRY_SECONDS)
            continue
        serve_in_a_thread(peer, service)


def serve_in_a_thread(peer: socket.socket, service: ToolService) -> None:
    """Wait for a thread where none can be started, for some time; then refuse the connection's request."""
    for _ in range(THREAD_RETRIES):
        try:
            threading.Thread(target=service.serve, args=(peer,), daemon=True).start()
        except RuntimeError as error:  # the container's limit on processes and threads
            problem = error
            time.sleep(ACCEPT_RETRY_SECONDS)
        else:
            return
    write_log(f"a connection could not be served: {problem}\n")
    service.refuse_for_want_of_threads(peer, problem)
