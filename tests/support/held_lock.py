"""A registry whose writer does not release its lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from orchestrator.registry import PluginRegistry


@contextmanager
def held_write_lock(registry: PluginRegistry) -> Iterator[None]:
    """Another thread holds the write lock during the context."""
    held, release = Event(), Event()

    def hold() -> None:
        with registry._lock:
            held.set()
            release.wait()

    thread = Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        release.set()
        thread.join()
