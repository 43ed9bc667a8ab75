"""A program's values become JSON where that is obvious; what is none is refused before anything is sent."""

from __future__ import annotations

import collections
import enum
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from support.scripted_transport import ScriptedTransport, envelope

from orchestrator.client import ApiError, InvalidRequest


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Pair(NamedTuple):
    first: int
    second: int


@dataclass
class Box:
    x: int
    labels: list[str] = field(default_factory=list)


class Dumped:
    """As a pydantic model."""

    def model_dump(self) -> dict[str, Any]:
        return {"score": np.float32(0.5)}


class Struct:
    """As a msgspec struct."""

    __struct_fields__ = ("x",)
    x = 4


class Tensor:
    """As a tensor of torch."""

    def tolist(self) -> list[float]:
        return [1.0, 2.0]


UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
OBVIOUS = [
    (np.float32(0.5), 0.5),
    (np.float64(0.25), 0.25),
    (np.int64(7), 7),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array(5), 5),
    ([np.float32(1), np.int8(2)], [1.0, 2]),
    ({"scores": np.zeros(2)}, {"scores": [0.0, 0.0]}),
    (Tensor(), [1.0, 2.0]),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (timedelta(days=1, seconds=2, microseconds=500_000), "PT86402.5S"),
    (timedelta(seconds=-1), "-PT1S"),
    (timedelta(0), "PT0S"),
    (UUID, str(UUID)),
    (Decimal("0.5"), 0.5),
    (Decimal(3), 3.0),
    (Decimal("0.1000000000000000000000001"), "0.1000000000000000000000001"),
    (Decimal("1E+400"), "1E+400"),
    ({"folder": Path("a/b")}, {"folder": "a/b"}),
    ([[Path("a")]], [["a"]]),
    ({3}, [3]),
    (frozenset({"a"}), ["a"]),
    (collections.deque([1, 2]), [1, 2]),
    (range(3), [0, 1, 2]),
    ((1, "a"), [1, "a"]),
    (Pair(1, 2), [1, 2]),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.values(), [1]),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    ([Colour.RED, {"level": Level.HIGH}], ["red", {"level": 3}]),
    (Box(1), {"x": 1, "labels": []}),
    ([Box(np.int64(2), ["a"])], [{"x": 2, "labels": ["a"]}]),
    (Dumped(), {"score": 0.5}),
    (Struct(), {"x": 4}),
    (MappingProxyType({"a": 1}), {"a": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    ({7: "x", Colour.RED: 2, UUID: 3, None: 4, True: 5}, {"7": "x", "red": 2, str(UUID): 3, "null": 4, "true": 5}),
    ({"raw": b"\xff\x00"}, {"raw": "/wA="}),
    ({"raw": [memoryview(b"a")]}, {"raw": ["YQ=="]}),
    (None, None),
    ("\u00e4\U0001f600", "\u00e4\U0001f600"),
    (10**40, 10**40),
]


@pytest.mark.parametrize(("value", "sent"), OBVIOUS, ids=lambda value: repr(value)[:40])
async def test_a_value_with_one_obvious_form_is_sent_in_it(make, value, sent):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "echo", "say", x=value)
    assert json.loads(transport.bodies[0]) == {"x": sent}
    assert type(json.loads(transport.bodies[0])["x"]) is type(sent)


@pytest.mark.parametrize(("value", "sent"), OBVIOUS, ids=lambda value: repr(value)[:40])
async def test_beside_a_file_it_is_the_same_json_in_a_part_of_its_own(make, value, sent):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "echo", "say", x=value, file=b"f")
    (part,) = [part for part in transport.bodies[0].split(b"\r\n--") if b'name="x"' in part]
    text = part.partition(b"\r\n\r\n")[2].decode()
    assert (text if isinstance(sent, str) else json.loads(text)) == sent


async def test_what_a_generator_yields_is_a_list(make):
    transport = ScriptedTransport(envelope())
    await make("http://orchestrator", transport=transport)("run", "echo", "say", x=(n * 2 for n in (1, 2)))
    assert json.loads(transport.bodies[0]) == {"x": [2, 4]}


def itself() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


class Endless:
    def tolist(self) -> Endless:
        return self


NAN, INFINITE = float("nan"), float("inf")
REFUSED = [
    (NAN, "threshold is nan"),
    (-INFINITE, "threshold is -inf"),
    (np.float32("nan"), "threshold is nan"),
    (np.array([1.0, NAN]), r"threshold\[1\] is nan"),
    ({"boxes": [{"x": INFINITE}]}, r"threshold\.boxes\[0\]\.x is inf"),
    (Decimal("NaN"), "threshold is NaN"),
    (1 + 2j, "threshold is a value of type complex"),
    (object(), "threshold is a value of type object"),
    ([1, object()], r"threshold\[1\] is a value of type object"),
    (Box, "threshold is a value of type type"),
    (len, "threshold is a value of type builtin_function_or_method"),
    (SimpleNamespace(a=1), "threshold is a value of type types.SimpleNamespace"),
    ({(1, 2): 3}, r"has the key \(1, 2\)"),
    ({1: "a", "1": "b"}, "two keys that are '1'"),
    (itself(), "holds itself"),
    (Endless(), "holds itself"),
    ("\ud800", "half a character"),
    ({"\ud800": 1}, "half a character"),
    (10**5000, "too many digits"),
]


@pytest.mark.parametrize("method", ["run", "call", "stream", "run_async"])
@pytest.mark.parametrize(("value", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
async def test_a_value_that_is_no_json_is_refused_before_anything_is_sent(make, method, value, sentence):
    transport = ScriptedTransport(envelope())
    call = make("http://orchestrator", transport=transport)
    for others in ({}, {"file": b"f"}):
        with pytest.raises(InvalidRequest, match=f"The argument .*{sentence}") as caught:
            await call(method, "echo", "say", threshold=value, **others)
        assert isinstance(caught.value, ApiError)
        assert (caught.value.status, caught.value.code) == (None, "InvalidArgument")
    assert transport.requests == []


async def test_a_picture_in_memory_is_refused_with_what_to_do(make):
    picture = type("Image", (), {"__module__": "PIL.Image"})()
    with pytest.raises(InvalidRequest, match=r"image is a value of type PIL\.Image\.Image.*io\.BytesIO"):
        await make("http://orchestrator", transport=ScriptedTransport(httpx.Response(200)))(
            "run", "ocr", "read", image=picture
        )
