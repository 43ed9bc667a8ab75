"""The tools, as plain Python; each peer's app wraps them. Only the standard library: every environment imports this."""

import base64
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

PLUGINS = tuple(os.environ.get("PEER_PLUGINS", "bench").split(","))
PORT = int(os.environ.get("PEER_PORT", "8000"))
FOR_LOAD = bool(os.environ.get("PEER_FOR_LOAD"))


def load(plugin: str) -> None:
    """What a plugin does while it is loaded."""
    if os.environ.get("PEER_BROKEN") == plugin:
        raise RuntimeError("the model's file is missing")


def echo(text: str) -> str:
    return text


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def items(number: int) -> Iterator[str]:
    for index in range(number):
        yield f"item-{index}"


def burn(milliseconds: float) -> float:
    """By this thread's own clock."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass
    return milliseconds


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def answer(arguments: dict[str, Any]) -> Any:
    """Call the tool that `arguments` names; an upload is base64 there. Not for streams."""
    match arguments.get("tool"):
        case "echo":
            return echo(arguments["text"])
        case "digest":
            return digest(base64.b64decode(arguments["data"]))
        case "burn":
            return burn(arguments["milliseconds"])
        case "die":
            return die()
        case tool:
            raise ValueError(f"there is no tool {tool}")
