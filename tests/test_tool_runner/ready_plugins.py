"""Plugins that are ready, and a tool for them."""

from support.harness import Harness


def double(number: int) -> int:
    return number * 2


async def ready(harness: Harness, *names: str) -> None:
    await harness.open()
    for name in names:
        await harness.settled(name)
