"""A registry whose writer is in the middle of writing and does not come to its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from orchestrator.registry import PluginRegistry


@contextmanager
def writer_that_holds_the_lock(registry: PluginRegistry) -> Iterator[None]:
    """Another thread has the lock for as long as this context lasts."""
    held, let_go = Event(), Event()

    def hold() -> None:
        with registry._lock.gen_wlock():
            held.set()
            let_go.wait()

    thread = Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        let_go.set()
        thread.join()
