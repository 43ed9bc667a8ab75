"""The orchestrator killed and started again over twenty plugins that run on."""

import time
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.served import UP, Served

PLUGINS = 20


def measure(bench: Bench) -> Iterator[Figure]:
    """From the start of the process until the health API shows all of them up; whether any began anew."""
    seconds, first_answers, restarted = [], [], []
    with bench.up([f"p{number:02}" for number in range(PLUGINS)]) as orchestrator:
        before = _who(orchestrator)
        for _ in range(max(2, bench.options.rounds // 2)):
            orchestrator.kill()
            begun = time.monotonic()
            orchestrator.start()
            first_answers.append(orchestrator.until_all(lambda _: True) - begun)
            seconds.append(orchestrator.until_all(lambda plugin: plugin["state"] in UP) - begun)
            after = _who(orchestrator)
            restarted.append(float(len(before ^ after)))
    yield Figure("orchestrator killed and started: 20 plugins adopted", seconds, "s", Target("≤", 3), measure="max")
    yield Figure("  of these begun anew", restarted, "", Target("≤", 0), measure="max")
    yield Figure("  its first answer", first_answers, "s")


def _who(orchestrator: Served) -> set[tuple[str, str, str]]:
    """Containers by id, with when they began and the generation that the health API tells."""
    generations = {plugin["name"]: plugin["generation"] for plugin in orchestrator.plugins()}
    return {
        (
            container.id,
            container.attrs["State"]["StartedAt"],
            str(generations[container.labels["plugin-orchestrator.plugin"]]),
        )
        for container in orchestrator.containers()
    }
