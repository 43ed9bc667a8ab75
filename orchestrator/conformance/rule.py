"""What a rule is, and how one says that it is broken."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from orchestrator.conformance.subject import Subject


class BrokenRuleError(Exception):
    """The image does not keep to the rule. The message says what came instead."""


class NotCheckedError(Exception):
    """The rule says nothing of this image, or more would have to be known of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` raises `BrokenRuleError`, `NotCheckedError`, or what httpx raises where no answer comes."""

    name: str
    demands: str
    check: Callable[[Subject], Awaitable[None]]
    starts: bool = False
    """It waits for the container's start."""


def demand(good: object, otherwise: str) -> None:
    """Raises `BrokenRuleError` with `otherwise` where it is not good."""
    if not good:
        raise BrokenRuleError(otherwise)


def object_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The JSON object of an answer that must have this status."""
    demand(response.status_code == status, f"status {response.status_code} instead of {status}: {_shown(response)}")
    kind = response.headers.get("content-type", "")
    demand(kind.startswith("application/json"), f"Content-Type is {kind!r} instead of application/json")
    try:
        content = json.loads(response.content)
    except ValueError:
        raise BrokenRuleError(f"no JSON: {_shown(response)}") from None
    demand(isinstance(content, dict), f"no JSON object: {_shown(response)}")
    return dict(content)


def _shown(response: httpx.Response) -> str:
    return response.content[:200].decode("utf-8", "replace")
