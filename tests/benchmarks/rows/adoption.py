"""The orchestrator is killed and started again; its twenty plugins keep running."""

import time
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.served import UP, Served

PLUGINS = 20


def measure(bench: Bench) -> Iterator[Figure]:
    """Time from the start of the process until the health API shows all of them up; number of restarted ones."""
    seconds, first_answers, restarted = [], [], []
    with bench.up([f"p{number:02}" for number in range(PLUGINS)]) as orchestrator:
        before = _who(orchestrator)
        for _ in range(max(2, bench.options.rounds // 2)):
            orchestrator.kill()
            started = time.monotonic()
            orchestrator.start()
            first_answers.append(orchestrator.until_all(lambda _: True) - started)
            seconds.append(orchestrator.until_all(lambda plugin: plugin["state"] in UP) - started)
            after = _who(orchestrator)
            restarted.append(float(len(before ^ after)))
    yield Figure("orchestrator killed and started: 20 plugins adopted", seconds, "s", Target("≤", 3), measure="max")
    yield Figure("  of these restarted", restarted, "", Target("≤", 0), measure="max")
    yield Figure("  its first answer", first_answers, "s")


def _who(orchestrator: Served) -> set[tuple[str, str, str]]:
    """Containers by id, with their start and the generation in the health API."""
    generations = {plugin["name"]: plugin["generation"] for plugin in orchestrator.plugins()}
    return {
        (
            container.id,
            container.attrs["State"]["StartedAt"],
            str(generations[container.labels["plugin-orchestrator.plugin"]]),
        )
        for container in orchestrator.containers()
    }
