"""What the report of a failed test has of the orchestrator: its log, and the plugins that have ended meanwhile."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from orchestrator.client import ApiError
from orchestrator.testing.faults import Orchestrator

Section = tuple[str, str]
"""Title and text."""
_BY_COMMAND: Final = frozenset({"STOPPED", "PARKED"})
_LOG_LINES: Final = 30
_MAX_EVENTS: Final = 500


def sections(orchestrator: Orchestrator, *, since: float) -> list[Section]:
    """Of what happened since then, in seconds since 1970. Never raises for an orchestrator that does not answer."""
    try:
        found = list(_ended(orchestrator, since))
    except ApiError as error:
        found = [("orchestrator", f"It does not answer: {error}")]
    with suppress(RuntimeError, OSError):  # without a container of its own, or without an engine
        # Whole seconds, as the engine takes them.
        log = orchestrator.log(since=int(since))
        found.append(("log of the orchestrator", log))
    return found


def _ended(orchestrator: Orchestrator, since: float) -> Iterator[Section]:
    """Each instance that has ended, but for those that an operator has ended."""
    for event in orchestrator.client.events(limit=_MAX_EVENTS):
        code, plugin = event.get("reason_code"), str(event["plugin"])
        late = datetime.fromisoformat(str(event["time"])) >= datetime.fromtimestamp(since, UTC)
        if late and code and code not in _BY_COMMAND and event.get("state") in ("FAILED", "UNAVAILABLE"):
            report = _post_mortem(orchestrator, plugin, int(event["generation"]))
            yield f"plugin {plugin}: {event['state']}, {code}", "\n".join(_lines(str(event.get("reason")), report))


def _post_mortem(orchestrator: Orchestrator, plugin: str, generation: int) -> dict[str, Any]:
    with suppress(httpx.HTTPError, ValueError):
        answer = httpx.get(
            f"{orchestrator.address}/v1/plugins/{plugin}/post-mortem",
            params={"generation": generation},
            headers=orchestrator.headers,
            trust_env=False,
        )
        if answer.is_success:
            return dict(answer.json())
    return {}


def _lines(reason: str, report: dict[str, Any]) -> Iterator[str]:
    yield reason
    for name in ("exit_code", "signal"):
        if report.get(name) is not None:
            yield f"{name.replace('_', ' ')}: {report[name]}"
    for name, title in (("traceback", "traceback"), ("stacks", "stacks"), ("build_output", "build")):
        if report.get(name):
            yield f"--- {title}"
            yield report[name].rstrip()
    if log := (report.get("log_tail") or "").splitlines()[-_LOG_LINES:]:
        yield "--- log"
        yield from log
