"""PluginRegistry between threads: readers never fail and hardly wait, no write is lost."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

from support.held_lock import held_write_lock
from support.reliability import ReliabilityTable

from orchestrator.lifecycle import PluginLifecycleState
from orchestrator.registry import PluginRecord, PluginRegistry

THREADS, ROUNDS = 8, 100


def registry_with(*names: str, read_timeout: float = 0.02) -> PluginRegistry:
    registry = PluginRegistry(read_timeout=read_timeout)
    for name in names:
        registry.register(
            PluginRecord(
                name, version="1", description="", state=PluginLifecycleState.LOADED, observed_at=datetime.now(UTC)
            )
        )
        registry.renew(name)
        registry.mark_initialized(name, 1)
    return registry


def test_no_count_of_concurrent_threads_is_lost() -> None:
    """Runs counted in and out by many threads at once add up."""
    registry = registry_with("reader")

    def work(_: int) -> None:
        for number in range(ROUNDS):
            registry.begin_run("reader", 1)
            registry.count_queued("reader", +1)
            registry.finish_run("reader", 1, ok=number % 4 > 0, execution_ms=2)
            registry.count_queued("reader", -1)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    after = registry.get("reader")
    assert after is not None
    assert after.success_count + after.error_count == THREADS * ROUNDS
    assert after.error_count == THREADS * ROUNDS / 4
    assert after.total_execution_ms == THREADS * ROUNDS * 2
    assert (after.in_flight, after.queued) == (0, 0)


def test_a_reader_never_sees_half_of_a_change() -> None:
    """Counter and time of one run change together, also under concurrent readers."""
    registry = registry_with("reader")
    done = Event()

    def read(_: int) -> int:
        seen = 0
        while not done.is_set():
            record = registry.get("reader")
            assert record is not None
            assert record.total_execution_ms == record.success_count * 3
            seen += 1
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, n) for n in range(3)]
        try:
            for _ in range(ROUNDS * 2):
                registry.begin_run("reader", 1)
                registry.finish_run("reader", 1, ok=True, execution_ms=3)
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_fifty_readers_and_five_writers(reliability: ReliabilityTable) -> None:
    """Far above the load of health requests and runs: readers are answered, fresh or stale, and nobody starves."""
    registry = registry_with("reader", "writer")
    over = time.monotonic() + 2

    def read(_: int) -> list[float]:
        waits = []
        while (started := time.perf_counter()) and time.monotonic() < over:
            assert {record.name for record in registry.list()} == {"reader", "writer"}
            waits.append(time.perf_counter() - started)
            time.sleep(0.01)
        return waits

    def write(_: int) -> int:
        writes = 0
        while time.monotonic() < over:
            registry.begin_run("writer", 1)
            registry.finish_run("writer", 1, ok=True, execution_ms=1)
            writes += 1
            time.sleep(0.001)
        return writes

    with ThreadPoolExecutor(55) as pool:
        readers = [pool.submit(read, number) for number in range(50)]
        writers = [pool.submit(write, number) for number in range(5)]
        waits = sorted(wait for reader in readers for wait in reader.result())
        writes = [writer.result() for writer in writers]
    after = registry.get("writer")
    assert after is not None
    assert after.success_count == sum(writes)
    assert min(writes) > 0
    reliability.at_most(
        "registry, 50 readers and 5 writers: reading, p99", waits[len(waits) * 99 // 100] * 1000, limit=100, unit="ms"
    )


def test_a_reader_that_cannot_have_the_lock_gets_the_last_snapshot() -> None:
    """Within its timeout, marked as stale; afterwards it is fresh again."""
    registry = registry_with("reader", "writer")
    with held_write_lock(registry):
        started = time.monotonic()
        one, everyone = registry.get("reader"), registry.list()
        took = time.monotonic() - started
    assert one is not None
    assert (one.name, one.state, one.stale) == ("reader", "INITIALIZED", True)
    assert [(r.name, r.stale) for r in everyone] == [("reader", True), ("writer", True)]
    assert took < 0.5
    assert not any(record.stale for record in registry.list())


def test_events_can_be_read_while_the_lock_is_held() -> None:
    """No reader waits for a writer that never ends."""
    registry = registry_with("reader")
    with held_write_lock(registry):
        assert [event.state for event in registry.events()] == ["LOADED", "INITIALIZED"]


def test_an_unknown_name_is_none_even_while_the_lock_is_held() -> None:
    """404 is 404, however busy the registry is."""
    registry = registry_with("reader")
    with held_write_lock(registry):
        assert registry.get("nobody") is None


def test_readers_do_not_shut_one_another_out() -> None:
    """Many readers that wait for one writer all have fresh records when it ends, and do not keep the next one out."""
    registry = registry_with("reader", read_timeout=5)
    with ThreadPoolExecutor(20) as pool:
        with held_write_lock(registry):
            reads = [pool.submit(registry.get, "reader") for _ in range(20)]
            while not all(read.running() for read in reads):
                time.sleep(0.001)
        registry.note("reader", "written")
        found = [read.result(5) for read in reads]
    assert all(record is not None and not record.stale for record in found)
