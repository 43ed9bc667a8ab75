"""One image against every rule, in order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import httpx

from orchestrator.conformance import control_rules, tool_rules
from orchestrator.conformance.rule import BrokenRuleError, NotCheckedError, Rule
from orchestrator.conformance.subject import Subject, started
from orchestrator.containers.engine import ContainerEngine
from orchestrator.settings import Settings

ANY_ENTRYPOINT: Final = "plugin:Plugin"
"""An image in another language asks for none."""
_SECONDS: Final = 15.0
"""For one rule, beside those that wait for the start."""
_STARTS: Final = 2
"""The first rules: where one of these is broken nothing else can be looked at."""
RULES: Final[tuple[Rule, ...]] = (*control_rules.RULES, *tool_rules.RULES, control_rules.LEAVING)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one rule. `detail` says what is wrong, or why it was not checked."""

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
    """A result for each rule. `call`: a tool of the image and arguments that fit it; without it calls are not checked.

    Raises `EngineError` where there is no such image or the engine does not start it, `OSError` for the run folder.
    """
    async with started(engine, image, settings, call=call, environment=environment, entrypoint=entrypoint) as subject:
        results: list[Result] = []
        for number, rule in enumerate(RULES):
            if any(result.outcome == "broken" for result in results[: min(number, _STARTS)]):
                results.append(Result(rule.name, rule.demands, "not checked", "it does not start"))
                continue
            results.append(await _held_against(rule, subject))
        return results


async def _held_against(rule: Rule, subject: Subject) -> Result:
    seconds = _SECONDS + (subject.startup_timeout if rule.starts else 0)
    try:
        async with asyncio.timeout(seconds):
            await rule.check(subject)
    except NotCheckedError as error:
        return Result(rule.name, rule.demands, "not checked", str(error))
    except BrokenRuleError as error:
        return Result(rule.name, rule.demands, "broken", str(error))
    except (httpx.HTTPError, OSError) as error:  # a time-out is one, too
        return Result(rule.name, rule.demands, "broken", f"no answer: {type(error).__name__} {error}".rstrip())
    return Result(rule.name, rule.demands, "ok")
