"""The five states, the steps between them, and the reasons for the two final ones. Pure; knows nothing else of the
house.
"""

from orchestrator.lifecycle.reasons import ReasonCode, final_state
from orchestrator.lifecycle.states import FINAL_STATES, TRANSITIONS, PluginLifecycleState, check_transition

__all__ = ["FINAL_STATES", "TRANSITIONS", "PluginLifecycleState", "ReasonCode", "check_transition", "final_state"]
