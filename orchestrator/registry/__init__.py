"""What is known of every plugin, for any thread to read. Must not know: engines, containers, HTTP."""

from orchestrator.registry.plugin_registry import PluginRegistry
from orchestrator.registry.records import (
    Activity,
    Check,
    ContainerFacts,
    EffectiveLimits,
    InstanceRecord,
    LifecycleEvent,
    PendingRestart,
    PluginRecord,
    PostMortem,
    Role,
)

__all__ = [
    "Activity",
    "Check",
    "ContainerFacts",
    "EffectiveLimits",
    "InstanceRecord",
    "LifecycleEvent",
    "PendingRestart",
    "PluginRecord",
    "PluginRegistry",
    "PostMortem",
    "Role",
]
