"""What each reason code and error type means, what to do about it, and how a test produces it. Pure.

The only table of it: `orchestrator explain` prints it, and plugins/reason-codes.md is made from it.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from orchestrator.lifecycle.explanations.codes import CODES
from orchestrator.lifecycle.explanations.error_types import ERROR_TYPES
from orchestrator.lifecycle.explanations.explanation import Explanation
from orchestrator.lifecycle.reasons import ReasonCode

__all__ = ["EXPLANATIONS", "Explanation", "find", "of_code", "similar"]

EXPLANATIONS: Final[Mapping[str, Explanation]] = {each.name: each for each in (*CODES, *ERROR_TYPES)}


def of_code(code: ReasonCode) -> Explanation:
    return EXPLANATIONS[code.value]


def find(name: str) -> Explanation | None:
    """By the name of a reason code or error type, whatever its letters' case, and with `-` for `_`."""
    # INVALID_OUTPUT is a code, InvalidOutput a type.
    wanted = _plain(name)
    return EXPLANATIONS.get(name) or next((each for each in EXPLANATIONS.values() if _plain(each.name) == wanted), None)


def similar(name: str) -> list[str]:
    """The names that may have been meant, the likeliest first; at most three."""
    names = {_plain(each): each for each in EXPLANATIONS}
    wanted = _plain(name)
    close = get_close_matches(wanted, names, n=3, cutoff=0.6)
    parts = [each for each in names if len(wanted) > 3 and wanted in each and each not in close]
    return [names[each] for each in [*close, *parts][:3]]


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "").replace(" ", "")
