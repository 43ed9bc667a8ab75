"""Run ids that callers choose: each makes one run, also where requests with the same one overlap."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class IdempotencyKeys:
    """Of requests that go on now. A run that was accepted before a request began is known to the lookup of runs; one
    that is accepted after it, and may have ended long before the request's body is here, to this.
    """

    def __init__(self) -> None:
        self._asking: Counter[str] = Counter()
        self._used: set[str] = set()

    @contextmanager
    def asked(self, run_id: str) -> Iterator[None]:
        """While a request for a run of this id goes on."""
        self._asking[run_id] += 1
        try:
            yield
        finally:
            self._asking[run_id] -= 1
            if not self._asking[run_id]:
                del self._asking[run_id]
                self._used.discard(run_id)

    def use(self, run_id: str) -> None:
        """It has made a run."""
        if run_id in self._asking:
            self._used.add(run_id)

    def used(self, run_id: str) -> bool:
        return run_id in self._used
