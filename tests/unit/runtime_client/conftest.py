"""Both event loops that the channel may run on."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from unit.runtime_client.client_calls import Run


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test within ten seconds."""

    def within(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(test, 10))

    return within
