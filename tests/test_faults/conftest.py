"""What the fault tests share: the health routes are watched during every fault."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.health_prober import health_answers
from support.live import LiveOrchestrator
from support.reliability import ReliabilityTable

FIXTURES = Path(__file__).parents[1] / "fixtures" / "plugins"
HEALTH_ROUTES_ANSWER = {"200", "404"}
LATEST = 100.0
"""Milliseconds."""

Watched = Callable[[LiveOrchestrator, Sequence[str]], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def watched(reliability: ReliabilityTable) -> Watched:
    """A context in which the health routes are asked all the time; they must have answered 200 or 404, and in time."""

    @contextmanager
    def watch(live: LiveOrchestrator, names: Sequence[str]) -> Iterator[None]:
        with health_answers(str(live.client.base_url), live.process.pid, names) as answers:
            yield
        right = sum(count for status, count in answers.statuses.items() if status in HEALTH_ROUTES_ANSWER)
        reliability.count("health routes under faults: answered 200 or 404", right=right, of=answers.asked)
        reliability.at_most("  slowest answer as a caller saw it", answers.slowest_seen, unit="ms")
        reliability.at_most("  99 of 100 answers within", answers.p99_seen, unit="ms")
        assert answers.slowest <= LATEST, answers.late
        reliability.at_most(
            "  slowest answer without the wait for a processor", answers.slowest, limit=LATEST, unit="ms"
        )

    return watch
