"""What commands import: each import adds to the start-up time and memory of every process, unnoticed."""

from __future__ import annotations

import subprocess
import sys

import pytest

ONLY_FOR_CALLERS = {
    "rich",
    "httpx",
    "orchestrator.client",
    "orchestrator.cli.console",
    "orchestrator.cli.connection",
}
ONLY_FOR_OTHER_COMMANDS = {"packaging", "orchestrator.audit", "orchestrator.conformance", "orchestrator.cli.dev"}
ONLY_WHERE_CONFIGURED = {"opentelemetry.sdk", "opentelemetry.exporter", "orchestrator.telemetry.otel"}
ONLY_FOR_TESTS = {"aiohttp"}
ONLY_FOR_SERVING = {"fastapi", "uvicorn", "docker", "prometheus_client", "orchestrator.app"}


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("serve", ONLY_FOR_CALLERS | ONLY_FOR_OTHER_COMMANDS | ONLY_WHERE_CONFIGURED | ONLY_FOR_TESTS),
        ("plugins", ONLY_FOR_SERVING | ONLY_FOR_OTHER_COMMANDS | {"pydantic"}),
        ("keys", ONLY_FOR_SERVING | ONLY_FOR_OTHER_COMMANDS),
        ("--version", ONLY_FOR_SERVING | ONLY_FOR_CALLERS | ONLY_FOR_OTHER_COMMANDS),
    ],
)
def test_a_command_imports_nothing_that_only_others_need(command: str, unwanted: set[str]) -> None:
    code = f"import sys; from orchestrator.cli import commands; commands.command_line({command!r}); print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "orchestrator.cli.commands" in imported
    assert unwanted.isdisjoint(imported), sorted(unwanted.intersection(imported))


def test_help_knows_all_commands() -> None:
    """Other commands import their own module only."""
    shown = subprocess.run([sys.executable, "-m", "orchestrator", "--help"], capture_output=True, text=True, check=True)
    assert all(f" {name} " in shown.stdout for name in ("serve", "plugins", "runs", "keys", "check-image", "dev"))
