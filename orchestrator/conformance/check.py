"""Checks one image against every rule, in order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import httpx

from orchestrator.conformance import control_rules, tool_rules
from orchestrator.conformance.harness import BrokenRuleError, NotCheckedError, Rule, Subject, started
from orchestrator.containers.engine import ContainerEngine
from orchestrator.settings import Settings

ANY_ENTRYPOINT: Final = "plugin:Plugin"
"""The default: an image in another language needs no entrypoint."""
_RULE_SECONDS: Final = 15.0  # limit for one rule, beside the start-up time
_START_RULES: Final = 2  # number of leading rules without which no other can be checked
# The start first, which the others need; SIGTERM last, which ends the container.
RULES: Final[tuple[Rule, ...]] = (*control_rules.RULES, *tool_rules.RULES, control_rules.SIGTERM)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one rule. `detail` says what is wrong, or why it was not checked."""

    rule: str
    demands: str
    outcome: Literal["ok", "broken", "not checked"]
    detail: str = ""


async def check_image(
    engine: ContainerEngine,
    image: str,
    settings: Settings,
    *,
    call: tuple[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    entrypoint: str = ANY_ENTRYPOINT,
) -> list[Result]:
    """A result for each rule. `call`: a tool of the image and valid arguments; without it calls are not checked.

    Raises `EngineError` if the image is missing or does not start, `OSError` if the run folder cannot be created.
    """
    async with started(engine, image, settings, call=call, environment=environment, entrypoint=entrypoint) as subject:
        results: list[Result] = []
        for number, rule in enumerate(RULES):
            if any(result.outcome == "broken" for result in results[: min(number, _START_RULES)]):
                results.append(Result(rule.name, rule.demands, "not checked", "it does not start"))
                continue
            results.append(await _check_rule(rule, subject))
        return results


async def _check_rule(rule: Rule, subject: Subject) -> Result:
    seconds = _RULE_SECONDS + (subject.startup_timeout if rule.starts else 0)
    try:
        async with asyncio.timeout(seconds):
            await rule.check(subject)
    except NotCheckedError as error:
        return Result(rule.name, rule.demands, "not checked", str(error))
    except BrokenRuleError as error:
        return Result(rule.name, rule.demands, "broken", str(error))
    except (httpx.HTTPError, OSError) as error:  # TimeoutError is an OSError
        return Result(rule.name, rule.demands, "broken", f"no answer: {type(error).__name__} {error}".rstrip())
    return Result(rule.name, rule.demands, "ok")
