"""Calls in the sandbox on an instance that answers as a test wants, and request bodies as the API passes them on."""

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Message
from support.raw_runtime import Answer, raw_instance

from orchestrator.api.body import RequestBody, UploadPace
from orchestrator.sandbox.call import RunResult, ToolCall
from orchestrator.sandbox.sandbox_runner import PluginSandboxRunner
from orchestrator.sandbox.verdict import Verdict

MAX_RESULT = 100_000
CALL = ToolCall("read", "run-1", "application/json", b"{}")


def sandbox(*, reader_idle: float = 0.2) -> PluginSandboxRunner:
    return PluginSandboxRunner(max_result=MAX_RESULT, reader_idle=reader_idle)


async def run(
    answer: bytes | Answer, *, call: ToolCall = CALL, timeout: float = 2, ended: Verdict | None = None
) -> RunResult:
    """The result of a call on an instance that answers so."""
    async with raw_instance(answer, ended=ended) as instance:
        return await sandbox().run(instance, call, timeout=timeout)


PACE = UploadPace(idle=0.2, min_rate=16 * 1024)


def request_body(chunks: AsyncIterator[bytes], pace: UploadPace = PACE) -> RequestBody:
    """A body that its caller sends in these chunks, and does not send to its end where they end in an error."""

    async def receive() -> Message:
        chunk = await anext(chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return RequestBody(receive, limit=10**9, pace=pace)


async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
