"""plugins/reason-codes.md, made from the table of explanations. Pure."""

from collections.abc import Iterator
from typing import Final

from orchestrator.lifecycle.explanations import EXPLANATIONS, Explanation
from orchestrator.lifecycle.states import PluginLifecycleState

_HEAD: Final = """\
# Reason codes and error types

<!-- Made from orchestrator/lifecycle/explanations: `orchestrator explain --markdown >plugins/reason-codes.md`. -->

Every FAILED or UNAVAILABLE plugin has a `reason_code`, which is stable, and a `reason`: what happened, where, what to
do. After the cause is fixed, `restart` starts a new instance. `orchestrator explain CODE` prints a row of this page,
with `--json` for programs.
"""
_IN_A_TEST: Final = """\
With [`OrchestratorContainer`](../orchestrator/testing/README.md#faults) the tests of another project produce each of
them: by a line such as `with orchestrator.fault("detector", "OUT_OF_MEMORY"):` this really happens in `detector`:
"""


def page() -> str:
    """plugins/reason-codes.md."""
    return "\n".join(_page_lines()) + "\n"


def _page_lines() -> Iterator[str]:
    yield from _HEAD.splitlines()
    for state, title in (
        (PluginLifecycleState.UNAVAILABLE, "something is missing"),
        (PluginLifecycleState.FAILED, "something broke"),
    ):
        yield from ("", f"## {state}: {title}", "", f"| {state} | means | what to do |", "|---|---|---|")
        for each in EXPLANATIONS.values():
            if each.state is state:
                yield f"| `{each.name}` | {_linked(each)} | {each.remedy} |"
    yield from ("", "## Error types", "")
    yield "`error_type` of an answer that is no result: a tool's own exception by its class, or one of these."
    yield from ("", "| error type | status | means | what to do |", "|---|---|---|---|")
    for each in EXPLANATIONS.values():
        if each.kind == "error type":
            yield f"| `{each.name}` | {each.status} | {each.meaning} | {each.remedy} |"
    yield from ("", "## In a test", "")
    yield from _IN_A_TEST.splitlines()
    yield from ("", "| code | happens |", "|---|---|")
    for each in EXPLANATIONS.values():
        if each.happens:
            line = "" if each.kind == "reason code" else f"`{each.test}`: "
            yield f"| `{each.name}` | {line}{each.happens} |"


def _linked(each: Explanation) -> str:
    return f"{each.meaning} ([more](../{each.page}))" if each.page else each.meaning
