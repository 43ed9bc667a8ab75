"""The five lifecycle states of an instance and the only steps between them."""

from collections.abc import Mapping
from enum import StrEnum

from orchestrator.errors import TransitionError


class PluginLifecycleState(StrEnum):
    """Where an instance stands. FAILED and UNAVAILABLE are final: a restart makes a new instance."""

    LOADED = "LOADED"
    INITIALIZED = "INITIALIZED"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    UNAVAILABLE = "UNAVAILABLE"


_S = PluginLifecycleState

TRANSITIONS: Mapping[PluginLifecycleState, frozenset[PluginLifecycleState]] = {
    _S.LOADED: frozenset({_S.INITIALIZED, _S.FAILED, _S.UNAVAILABLE}),
    _S.INITIALIZED: frozenset({_S.RUNNING, _S.FAILED, _S.UNAVAILABLE}),
    _S.RUNNING: frozenset({_S.FAILED, _S.UNAVAILABLE}),
    _S.FAILED: frozenset(),
    _S.UNAVAILABLE: frozenset(),
}

FINAL_STATES = frozenset(state for state, steps in TRANSITIONS.items() if not steps)
READY_STATES = frozenset({_S.INITIALIZED, _S.RUNNING})
"""Those in which an instance takes runs."""


def check_transition(current: PluginLifecycleState, target: PluginLifecycleState) -> None:
    """Raises `TransitionError` unless `target` may follow `current`."""
    if target not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current])) or "nothing: it is final"
        raise TransitionError(f"{current} cannot become {target}; after {current} comes {allowed}")
