"""Calls in the sandbox on an instance that answers as a test wants."""

import asyncio

from support.raw_runtime import Answer, raw_instance

from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.sandbox.sandbox_runner import PluginSandboxRunner
from orchestrator.sandbox.verdict import Verdict

MAX_RESULT = 100_000
CALL = ToolCall("read", "run-1", "application/json", b"{}")


def sandbox(*, upload_idle: float = 0.2) -> PluginSandboxRunner:
    return PluginSandboxRunner(max_result=MAX_RESULT, upload_idle=upload_idle)


async def run(
    answer: bytes | Answer, *, call: ToolCall = CALL, timeout: float = 2, ended: Verdict | None = None
) -> RunResult:
    """The result of a call on an instance that answers so."""
    async with raw_instance(answer, ended=ended) as instance:
        return await sandbox().run(instance, call, timeout=timeout)


async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
