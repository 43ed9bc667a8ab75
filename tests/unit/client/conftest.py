"""Both clients behind one interface: every requirement holds for the blocking and the asynchronous one."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from orchestrator.client import ApiError, AsyncClient, Client, transport


class Caller:
    """`await call("run", "echo", "say")`: the result of the client's method, a stream as the list of its events."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, /, *arguments: Any, upto: int | None = None, **named: Any) -> Any:
        return await self.of(self.client, method, *arguments, upto=upto, **named)

    async def of(self, subject: Any, method: str, /, *arguments: Any, upto: int | None = None, **named: Any) -> Any:
        """`upto`: how many events of a stream are read before it is closed."""
        call = getattr(subject, method)
        if isinstance(self.client, Client):
            return await asyncio.to_thread(lambda: _taken(call(*arguments, **named), upto))
        answer = call(*arguments, **named)
        if inspect.isasyncgen(answer):
            events = []
            async for event in answer:
                events.append(event)
                if len(events) == upto:
                    break
            await answer.aclose()
            return events
        return await answer


def _taken(answer: Any, upto: int | None) -> Any:
    if not inspect.isgenerator(answer):
        return answer
    events = []
    for event in answer:
        events.append(event)
        if len(events) == upto:
            break
    answer.close()
    return events


@pytest.fixture(params=["sync", "async"])
async def make(request):
    """Makes the client under test."""
    made: list[Client | AsyncClient] = []

    def make(*arguments: Any, **named: Any) -> Caller:
        kind = Client if request.param == "sync" else AsyncClient
        made.append(kind(*arguments, **named))
        return Caller(made[-1])

    yield make
    for client in made:
        await client.aclose() if isinstance(client, AsyncClient) else client.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual number of retries, without pauses between them."""
    decided = transport.Retries.pause_after

    def at_once(retries: transport.Retries, error: ApiError) -> float | None:
        return None if decided(retries, error) is None else 0.0

    monkeypatch.setattr(transport.Retries, "pause_after", at_once)
