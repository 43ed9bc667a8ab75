"""Both clients, asked in one way: every requirement holds of the blocking and of the asynchronous one."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from orchestrator.client import AsyncClient, Client

if TYPE_CHECKING:
    from collections.abc import Iterator


class Asker:
    """`await ask("run", "echo", "say")`: what the client's method gives, a stream as the list of what came."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, /, *arguments: Any, upto: int | None = None, **named: Any) -> Any:
        return await self.of(self.client, method, *arguments, upto=upto, **named)

    async def of(self, subject: Any, method: str, /, *arguments: Any, upto: int | None = None, **named: Any) -> Any:
        """`upto`: how many of a stream are taken before it is closed."""
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
    """Makes the client that is asked."""
    made: list[Client | AsyncClient] = []

    def make(*arguments: Any, **named: Any) -> Asker:
        kind = Client if request.param == "sync" else AsyncClient
        made.append(kind(*arguments, **named))
        return Asker(made[-1])

    yield make
    for client in made:
        await client.aclose() if isinstance(client, AsyncClient) else client.close()


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    """Retries are as many as they are, without the time between them."""
    with stamina.set_testing(True, attempts=1000, cap=True):
        yield
