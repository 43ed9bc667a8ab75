"""JSON messages corrupted in every way that a newer, older, broken or hostile sender could corrupt them."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

STRANGE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**70,
    1.5e308,
    "",
    "x" * 70_000,
    "\x00\ud7ff",
    [],
    {},
    [[]],
    {"": {}},
    [None],
)


def mutated(line: bytes) -> bytes:
    """The message, corrupted in one to three ways."""
    text = json.dumps(mutated_content(json.loads(line))).encode()
    return corrupted(text) if random.random() < 0.4 else text


def mutated_content(content: Any) -> Any:
    """The same for decoded JSON."""
    for _ in range(random.randint(1, 2)):
        content = random.choice(_ON_CONTENT)(content)
    return content


def corrupted(text: bytes) -> bytes:
    """The bytes cut, doubled, flipped or emptied."""
    return random.choice(_ON_TEXT)(text)


def _slots(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a message, at any depth."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else []
    return [(content, key) for key in keys] + [slot for key in keys for slot in _slots(content[key])]


def _at_random_slot(change: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    def mutate(content: Any) -> Any:
        content = copy.deepcopy(content)
        if slots := _slots(content):
            change(*random.choice(slots))
        return content

    return mutate


def _put_strange(holder: Any, key: Any) -> None:
    holder[key] = copy.deepcopy(random.choice(STRANGE))


def _drop(holder: Any, key: Any) -> None:
    del holder[key]


def _nest(holder: Any, key: Any) -> None:
    for _ in range(random.choice((1, 3, 400))):
        holder[key] = {"x": holder[key]} if random.random() < 0.5 else [holder[key]]


def _rename(holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[str(key).swapcase()] = holder.pop(key)


_ON_CONTENT: tuple[Callable[[Any], Any], ...] = (
    _at_random_slot(_put_strange),
    _at_random_slot(_drop),
    _at_random_slot(_nest),
    _at_random_slot(_rename),
    lambda content: [content],
    lambda _: copy.deepcopy(random.choice(STRANGE)),
)
_ON_TEXT: tuple[Callable[[bytes], bytes], ...] = (
    lambda text: text[: random.randrange(len(text) + 1)],
    lambda text: text[random.randrange(len(text) + 1) :],
    lambda text: text.replace(b'"', b"'"),
    lambda text: bytes(byte ^ (random.random() < 0.05) * 0x80 for byte in text[:2000]),
    lambda _: random.randbytes(random.randrange(400)),
    lambda text: b"[" * 50_000 + text,
    lambda text: text.replace(b"{", b"{\n"),
    lambda text: text + text,
    lambda _: b"",
)
