"""Plugins that are ready, and a tool for them."""

from support.house import House


def double(number: int) -> int:
    return number * 2


async def ready(house: House, *names: str) -> None:
    await house.open()
    for name in names:
        await house.settled(name)
