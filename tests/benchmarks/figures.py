"""Figures, their targets and verdicts, the table and the JSON. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Measure = Literal["median", "p99", "max"]
"""Which statistic of the samples is compared with the target."""


@dataclass(frozen=True)
class Target:
    """`limit` is in the figure's unit."""

    sense: Literal["≤", "≥", "<"]
    limit: float

    def met(self, value: float) -> bool:
        match self.sense:
            case "≤":
                return value <= self.limit
            case "<":
                return value < self.limit
            case "≥":
                return value >= self.limit

    def __str__(self) -> str:
        return f"{self.sense} {number(self.limit)}"


@dataclass(frozen=True)
class Figure:
    """One row: samples of one quantity. Without a target it is a floor, shown for comparison."""

    name: str
    samples: Sequence[float]
    unit: str
    target: Target | None = None
    measure: Measure = "median"
    note: str = ""

    @property
    def value(self) -> float:
        match self.measure:
            case "median":
                return statistics.median(self.samples)
            case "p99":
                return quantile(self.samples, 0.99)
            case "max":
                return max(self.samples)

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "met" if self.target.met(self.value) else "MISSED"

    def document(self) -> dict[str, Any]:
        """The figure as JSON, with a summary of its samples."""
        return {
            "figure": self.name,
            "value": self.value,
            "measure": self.measure,
            "unit": self.unit,
            "target": None if self.target is None else str(self.target),
            "verdict": self.verdict or None,
            "note": self.note,
            "samples": {
                "n": len(self.samples),
                "min": min(self.samples),
                "p25": quantile(self.samples, 0.25),
                "median": statistics.median(self.samples),
                "p75": quantile(self.samples, 0.75),
                "p99": quantile(self.samples, 0.99),
                "max": max(self.samples),
            },
        }


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratios(ours: Sequence[float], floor: Sequence[float]) -> list[float]:
    """Ours over the floor, round by round: whatever slowed the machine in a round slowed both."""
    return [one / other for one, other in zip(ours, floor, strict=True)]


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The order within a round, rotated so that none always follows the same one."""
    shift = round_number % len(names)
    return [*names[shift:], *names[:shift]]


def table(figures: Sequence[Figure]) -> str:
    """One line for each figure: value, target, verdict, spread (minimum to maximum, and number of samples)."""
    head = ("figure", "value", "target", "verdict", "spread")
    rows = [head, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for number, row in enumerate(rows):
        name, value, *rest = row
        cells = [name.ljust(widths[0]), value.rjust(widths[1])]
        cells += [cell.ljust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        note = figures[number - 1].note if number else ""
        lines.append("  ".join([*cells, note]).rstrip())
    return "\n".join(lines)


def _cells(figure: Figure) -> tuple[str, str, str, str, str]:
    measure = "" if figure.measure == "median" or len(figure.samples) == 1 else f"{figure.measure} "
    value = f"{measure}{number(figure.value)} {figure.unit}".strip()
    n = len(figure.samples)
    spread = f"{number(min(figure.samples))} … {number(max(figure.samples))}  n={n}" if n > 1 else ""
    return figure.name, value, "" if figure.target is None else str(figure.target), figure.verdict, spread


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
