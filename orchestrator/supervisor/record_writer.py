"""RecordWriter: one instance's findings and figures, into its plugin's record and the log."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Unpack

from orchestrator.errors import StaleGenerationError
from orchestrator.formatting import format_size
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Check, ContainerFacts, InstanceRecord, PluginRegistry
from orchestrator.registry.changes import InstanceFacts
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.instance import Instance
from orchestrator.supervisor.limits import unlimited_detail

_log: Final = logging.getLogger(__name__)


class RecordWriter:
    """Writes for one instance, until it is forgotten by the registry."""

    def __init__(self, instance: Instance, registry: PluginRegistry) -> None:
        self._instance = instance
        self._plugin = instance.identity.plugin
        self._registry = registry

    def write(self, **facts: Unpack[InstanceFacts]) -> None:
        # A container that was left behind may be removed long after a newer instance has taken this one's place.
        with suppress(StaleGenerationError):
            self._registry.update(self._plugin, self._instance.generation, **facts)

    def write_container(self, gpus: tuple[Mapping[str, Any], ...]) -> None:
        """The container, without figures yet, and the GPUs that it has."""
        self.write(container=_container_facts(self._instance, None), gpus=gpus)

    def add_checks(self, *checks: Check) -> None:
        """Each replaces its source's earlier one of the same name."""
        self._replace_checks(checks)
        self.write(checks=self._instance.checks)

    def write_unlimited(self, found: tuple[str, ...]) -> None:
        """Limits that its container is not held to, as the operator allows."""
        instance = self._instance
        names = instance.unlimited = tuple(dict.fromkeys((*instance.unlimited, *found)))
        if names:
            detail = unlimited_detail(names, instance.limits, instance.engine_said)
            self.add_checks(Check("limits", ok=False, detail=detail, source="container"))
            self.write(unlimited=names)

    def write_status(self, status: RuntimeStatus) -> None:
        """The runtime's own checks, and the container's figures."""
        self._replace_checks((*_container_checks(status), _scratch_check(self._instance, status)))
        self.write(checks=self._instance.checks, container=_container_facts(self._instance, status))

    def end(self, verdict: Verdict) -> None:
        """Record the end, or a graver reason for it."""
        record = self._record()
        if record is None or not record.ended:
            self._registry.mark_ended(
                self._plugin, self._instance.generation, verdict.code, verdict.reason, caller=verdict.caller
            )
        # A second verdict is KILL_FAILED, a code of FAILED: an UNAVAILABLE instance stays as it is.
        elif record.state is PluginLifecycleState.FAILED:
            self._registry.amend_failure(self._plugin, self._instance.generation, verdict.code, verdict.reason)
        meant = (ReasonCode.STOPPED, ReasonCode.PARKED)
        level = logging.INFO if verdict.code in meant else logging.WARNING
        _log.log(level, "%s: %s: %s", self._plugin, verdict.code, verdict.reason, extra={"plugin": self._plugin})

    def restop(self, verdict: Verdict) -> None:
        """An operator stopped it while it was parked."""
        with suppress(StaleGenerationError):
            self._registry.amend_failure(
                self._plugin, self._instance.generation, verdict.code, verdict.reason, caller=verdict.caller
            )

    def restore_cause(self, verdict: Verdict) -> None:
        """The container that could not be ended is gone: the cause stands as the reason again, in place of
        KILL_FAILED.
        """
        record = self._record()
        if record is not None and record.reason_code is ReasonCode.KILL_FAILED:
            with suppress(StaleGenerationError):
                self._registry.amend_failure(self._plugin, self._instance.generation, verdict.code, verdict.reason)

    def _record(self) -> InstanceRecord | None:
        return self._registry.instance(self._plugin, self._instance.generation)

    def _replace_checks(self, checks: Iterable[Check]) -> None:
        for check in checks:
            others = (old for old in self._instance.checks if (old.source, old.name) != (check.source, check.name))
            self._instance.checks = (*others, check)


def _container_checks(status: RuntimeStatus) -> tuple[Check, ...]:
    return tuple(
        Check(
            name=str(check.get("name", "")),
            ok=check.get("ok") is True,
            detail=str(check.get("detail", "")),
            source="container",
        )
        for check in status.checks
    )


def _scratch_check(instance: Instance, status: RuntimeStatus) -> Check:
    """How `limits.scratch` is enforced."""
    size = format_size(instance.limits.scratch)
    if instance.scratch_quota:
        detail = f"quota: the engine's disk takes no more than {size}"
    elif status.scratch_watched:
        detail = f"watched: over {size} the plugin is ended; the engine's disk has no quota"
    else:
        detail = "no: the engine's disk has no quota, and this image does not report what it has written"
    return Check("limits.scratch", ok=True, detail=detail, source="host")


def _container_facts(instance: Instance, status: RuntimeStatus | None) -> ContainerFacts:
    memory = status.memory if status else {}
    return ContainerFacts(
        id=(instance.container_id or "")[:12] or None,
        name=instance.identity.container_name,
        image_id=instance.image_id,
        memory_usage_bytes=memory.get("usage_bytes"),
        memory_peak_bytes=memory.get("peak_bytes"),
        cpu_seconds=status.cpu_seconds if status else None,
        oom_kills=status.oom_kills if status else None,
        batches=status.batches if status else (),
    )
