"""The five states, the steps between them, and the reason codes of the two final ones. Pure; imports nothing but the
error tree.
"""

from orchestrator.lifecycle.reasons import ReasonCode
from orchestrator.lifecycle.states import (
    FINAL_STATES,
    READY_STATES,
    TRANSITIONS,
    PluginLifecycleState,
    check_transition,
)

__all__ = ["FINAL_STATES", "READY_STATES", "TRANSITIONS", "PluginLifecycleState", "ReasonCode", "check_transition"]
