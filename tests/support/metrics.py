"""Reading GET /metrics."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "plugin_orchestrator_"


class Scrape:
    """One response of GET /metrics, parsed by Prometheus' own parser."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    @property
    def names(self) -> set[str]:
        """The names of all series, as in queries."""
        return {name for name, _ in self._samples}

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the series with exactly these labels, or None. `name` is without our prefix."""
        return self._samples.get((PREFIX + name, frozenset(labels.items())))

    def labels(self, name: str, label: str) -> set[str]:
        """The values of this label in all series of this name."""
        return {dict(labels)[label] for known, labels in self._samples if known == PREFIX + name}


async def scraped(client: httpx.AsyncClient) -> Scrape:
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)
