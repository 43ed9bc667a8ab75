"""Findings of an audit. Pure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """The severity of a finding. Only an error makes an audit fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one subject: a plugin's name, or `orchestrator`. `sentence`: what is wrong, and what to do."""

    subject: str
    check: str
    level: Level
    sentence: str


def ok(subject: str, check: str, sentence: str = "") -> Finding:
    return Finding(subject, check, Level.OK, sentence)


def warning(subject: str, check: str, sentence: str) -> Finding:
    return Finding(subject, check, Level.WARNING, sentence)


def error(subject: str, check: str, sentence: str) -> Finding:
    return Finding(subject, check, Level.ERROR, sentence)


def findings_or_ok(subject: str, check: str, findings: list[Finding], sentence: str = "") -> list[Finding]:
    """The findings of one check, or that it is ok if there are none."""
    return findings or [ok(subject, check, sentence)]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> "AuditReport":
        return cls(tuple(findings))

    @property
    def passed(self) -> bool:
        return not any(finding.level is Level.ERROR for finding in self.findings)

    def count(self, level: Level) -> int:
        return sum(finding.level is level for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            **{f"{level}s" if level is not Level.OK else "ok": self.count(level) for level in Level},
            "findings": [asdict(finding) for finding in self.findings],
        }
