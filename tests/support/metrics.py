"""Metrics as a test reads them."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "plugin_orchestrator_"


class Scrape:
    """One answer of GET /metrics, read by Prometheus' own parser."""

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
        """Of all series, as a query names them."""
        return {name for name, _ in self._samples}

    def value(self, name: str, **labels: str) -> float | None:
        """Of the series with exactly these labels; None where there is none. Names are without our prefix."""
        return self._samples.get((PREFIX + name, frozenset(labels.items())))

    def labels(self, name: str, label: str) -> set[str]:
        """The values of this label over all series of this name."""
        return {dict(labels)[label] for known, labels in self._samples if known == PREFIX + name}


async def scraped(client: httpx.AsyncClient) -> Scrape:
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)
