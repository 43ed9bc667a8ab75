"""Recorder: what becomes of one plugin's instances, in the registry and in the log."""

import logging
from contextlib import suppress
from typing import Any, Final

from orchestrator.errors import StaleGenerationError
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, PluginRegistry
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.facts import with_check
from orchestrator.supervisor.instance import Instance

_log: Final = logging.getLogger(__name__)


class Recorder:
    """Of an instance that is no longer the newest, the registry takes nothing in."""

    def __init__(self, plugin: str, registry: PluginRegistry) -> None:
        self._plugin = plugin
        self._registry = registry

    def write(self, instance: Instance, **facts: Any) -> None:
        """Fields of the plugin's record."""
        with suppress(StaleGenerationError):
            self._registry.update(self._plugin, instance.generation, **facts)

    def note(self, instance: Instance, *checks: Check, **facts: Any) -> None:
        """What witnesses said, beside other fields."""
        for check in checks:
            instance.checks = with_check(instance.checks, check)
        self.write(instance, checks=instance.checks, **facts)

    def ended(self, instance: Instance, verdict: Verdict) -> None:
        """The end of the instance, or what is known better of it by now."""
        record = self._registry.get(self._plugin)
        if record is None or not record.ended:
            self._registry.mark_ended(self._plugin, instance.generation, verdict.code, verdict.reason)
        elif record.state is PluginLifecycleState.FAILED:
            self._registry.amend_failure(self._plugin, instance.generation, verdict.code, verdict.reason)
        level = logging.INFO if verdict.code is ReasonCode.STOPPED else logging.WARNING
        _log.log(level, "%s: %s: %s", self._plugin, verdict.code, verdict.reason, extra={"plugin": self._plugin})
