"""What the registry is told of an instance: the witnesses' words and the container's figures. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.registry import Check
from orchestrator.runtime_client.status import RuntimeStatus
from orchestrator.supervisor.instance import Instance


def container_checks(status: RuntimeStatus) -> tuple[Check, ...]:
    """What the runtime checked from within."""
    return tuple(
        Check(
            name=str(check.get("name", "")),
            ok=check.get("ok") is True,
            detail=str(check.get("detail", "")),
            source="container",
        )
        for check in status.checks
    )


def container_facts(instance: Instance, status: RuntimeStatus | None = None) -> Mapping[str, Any]:
    """The container as the health API shows it; null where nobody has said."""
    memory = status.memory if status else {}
    return {
        "id": (instance.container_id or "")[:12] or None,
        "name": instance.identity.container_name,
        "image_id": instance.image_id,
        "memory_usage_bytes": memory.get("usage_bytes"),
        "memory_peak_bytes": memory.get("peak_bytes"),
        "cpu_seconds": status.cpu_seconds if status else None,
        "oom_kills": status.oom_kills if status else None,
    }


def with_check(checks: Iterable[Check], check: Check) -> tuple[Check, ...]:
    """`checks` with this one in place of what its witness said of the same before."""
    return (*(old for old in checks if (old.source, old.name) != (check.source, check.name)), check)
