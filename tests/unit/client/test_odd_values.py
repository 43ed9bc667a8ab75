"""Whatever a program gives as an argument is sent, or is an `ApiError` that names the argument."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted_transport import ScriptedTransport, envelope

from orchestrator.client import ApiError, AsyncClient, Client, FormText, InvalidRequest, Upload

if TYPE_CHECKING:
    from collections.abc import Iterator


class Colour(enum.Enum):
    RED = "red"
    ODD = object()


@dataclass
class Broken:
    """A dataclass without the value of its field."""

    x: int

    def __init__(self) -> None:
        pass


class Raising:
    """Whatever is asked of it, it raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Array:
    def tolist(self) -> Any:
        raise ZeroDivisionError("no list")


class Files:
    """`read` of many kinds."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self, size: int = -1) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Unseekable(io.BytesIO):
    def seek(self, *_: int) -> int:
        raise OSError("it cannot")


def breaking() -> Iterator[int]:
    yield 1
    raise LookupError("the next one is lost")


def closed() -> io.BytesIO:
    file = io.BytesIO()
    file.close()
    return file


def archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(), "w")


ODD = [
    lambda: float("nan"),
    lambda: [1, float("-inf")],
    lambda: 1j,
    object,
    lambda: object,
    lambda: len,
    lambda: ...,
    lambda: NotImplemented,
    lambda: "\ud800",
    lambda: FormText("\ud800"),
    lambda: [FormText("a"), FormText("\ud800")],
    lambda: {"\ud800": 1},
    lambda: {(1, 2): 3},
    lambda: 10**5000,
    lambda: Colour.ODD,
    Broken,
    Raising,
    Array,
    lambda: SimpleNamespace(a=1),
    MagicMock,
    breaking,
    lambda: [breaking()],
    lambda: np.array([object()]),
    lambda: np.datetime64("2026-01-01"),
    lambda: np.array([1 + 2j]),
    lambda: np.ma.masked,
    lambda: np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    lambda: dt.UTC,
    lambda: range(3),
    lambda: memoryview(b"ab")[::2],
    lambda: Path("/no/such/file"),
    lambda: Path("/"),
    lambda: Path("a\0b"),
    lambda: [Path("/no/such/file"), b"x"],
    lambda: [b"x", "y"],
    list,
    lambda: [[]],
    lambda: [b""],
    closed,
    lambda: io.StringIO("text"),
    lambda: Unseekable(b"x"),
    archive,
    lambda: Files("text"),
    lambda: Files(None),
    lambda: Files(5),
    lambda: Files(OSError(5, "Input/output error")),
    lambda: Files(ZeroDivisionError("no")),
    lambda: Upload(5),  # type: ignore[arg-type]
    lambda: Upload(b"x", 5),  # type: ignore[arg-type]
    lambda: Upload(b"x", "a\r\nX-Evil: 1"),
    lambda: Upload(b"x", "\ud800"),
    lambda: Upload(b"x", "a", "text/plain\r\nX-Evil: 1"),
    lambda: Upload(b"x", "a", "text/\u00e4"),
    lambda: Upload(b"x", "a", None),  # type: ignore[arg-type]
    lambda: io.TextIOWrapper(io.BytesIO()),
]
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(), st.complex_numbers(), st.binary(max_size=20),
    st.text(st.characters(codec=None), max_size=10), st.datetimes(), st.dates(), st.times(), st.timedeltas(),
    st.uuids(), st.fractions(), st.sampled_from(ODD).map(lambda make: make()),
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(st.one_of(st.text(st.characters(codec=None)), st.integers(), st.floats()), inner, max_size=3),
        inner.map(lambda value: iter([value])),
        inner.map(lambda value: SimpleNamespace(value=value)),
    ),
    max_leaves=6,
)
METHODS = ("run", "stream", "run_async")


def outcome(method: str, arguments: dict[str, Any]) -> tuple[ApiError | None, int]:
    """The error of the blocking client, and how many requests were sent. Anything but an `ApiError` is raised."""
    transport = ScriptedTransport(envelope(run_id="1", state="queued"))
    with Client("http://orchestrator", transport=transport) as client:
        try:
            answer = getattr(client, method)("echo", "say", **arguments)
            if method == "stream":
                list(answer)
        except ApiError as error:
            return error, len(transport.requests)
    return None, len(transport.requests)


async def async_outcome(method: str, arguments: dict[str, Any]) -> tuple[ApiError | None, int]:
    transport = ScriptedTransport(envelope(run_id="1", state="queued"))
    async with AsyncClient("http://orchestrator", transport=transport) as client:
        try:
            if method == "stream":
                _ = [event async for event in client.stream("echo", "say", **arguments)]
            else:
                await getattr(client, method)("echo", "say", **arguments)
        except ApiError as error:
            return error, len(transport.requests)
    return None, len(transport.requests)


def check(found: tuple[ApiError | None, int]) -> None:
    error, sent = found
    assert sent == (1 if error is None else 0)
    if error is not None:
        assert isinstance(error, InvalidRequest) and error.status is None
        assert str(error).startswith("The argument value")


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("beside", [{}, {"file": b"f"}])
def test_an_odd_value(make: Any, beside: dict[str, Any]) -> None:
    check(outcome("run", {"value": make(), **beside}))
    check(asyncio.run(async_outcome("run", {"value": make(), **beside})))


@pytest.mark.slow
@settings(max_examples=300)
@given(value=VALUES, file=st.booleans(), method=st.sampled_from(METHODS))
def test_any_value(value: Any, *, file: bool, method: str) -> None:
    beside = {"file": b"f"} if file else {}
    check(outcome(method, {"value": value, **beside}))


@pytest.mark.slow
@settings(max_examples=100)
@given(value=VALUES, file=st.booleans(), method=st.sampled_from(METHODS))
def test_any_value_of_the_asynchronous_client(value: Any, *, file: bool, method: str) -> None:
    beside = {"file": b"f"} if file else {}
    check(asyncio.run(async_outcome(method, {"value": value, **beside})))


@pytest.mark.slow
@settings(max_examples=100)
@given(plugin=PLAIN, tool=PLAIN, name=st.text(st.characters(codec=None), min_size=1))
def test_any_name(plugin: Any, tool: Any, name: str) -> None:
    transport = ScriptedTransport(envelope())
    with Client("http://orchestrator", transport=transport) as client:
        for call in (lambda: client.run(plugin, tool, **{name: 1}), lambda: client.health(plugin)):
            with contextlib.suppress(ApiError):
                call()
