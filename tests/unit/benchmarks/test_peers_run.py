"""Loads, starts and ends, over a server of the test's own in place of a peer."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from benchmarks.load import LoadGenerator, load_generator
from benchmarks.peers import ends, speed, starts
from benchmarks.peers.contestant import Call, Running, Setup, Tool
from benchmarks.peers.peer import json_arguments, json_body
from benchmarks.peers.samples import Samples

pytestmark = pytest.mark.slow  # loads take their time


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        _, plugin, tool = self.path.split("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if tool == Tool.DIE:
            self.server.dead.add(plugin)
            self.close_connection = True
            return
        if plugin in self.server.dead or tool == self.server.refuses:
            self._answer(500, b"the model's file is missing")
        elif tool == Tool.DIGEST:
            self._answer(200, hashlib.sha256(body).hexdigest().encode())
        elif tool == Tool.ITEMS:
            items = "".join(f"item-{number}\n" for number in range(json.loads(body)["number"]))
            self._answer(200, items.encode())
        else:
            self._answer(200, body)

    def do_GET(self) -> None:
        self._answer(200, b"well")

    def _answer(self, status: int, content: bytes) -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(content)}\r\n\r\n"
        self.wfile.write(head.encode() + content)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    dead: set[str]
    refuses: Tool | None


class _Contestant:
    """See `Contestant`. `refuses`: answers this tool with 500."""

    title = "a server of the test's own"
    isolation = "nothing"

    def __init__(self, name: str, refuses: Tool | None = None) -> None:
        self.name = name
        self._refuses = refuses

    def prepare(self) -> None:
        pass

    @contextmanager
    def running(self, setup: Setup) -> Iterator[Running]:
        with _Server(("127.0.0.1", 0), _Handler) as server:
            server.dead, server.refuses = {setup.broken} if setup.broken else set(), self._refuses
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield _Running(server.server_address[1])
            server.shutdown()

    def call(self, tool: Tool, plugin: str, content: bytes, callers: int) -> Call:
        body = content if tool is Tool.DIGEST else json_body(json_arguments(tool, content))
        return Call(f"/{plugin}/{tool}", body)

    def health(self, plugin: str) -> Sequence[str]:
        return (f"/{plugin}",)


class _Running:
    def __init__(self, port: int) -> None:
        self._port = port

    def target(self, plugin: str, tool: Tool) -> str:
        return f"tcp:127.0.0.1:{self._port}"

    def pids(self) -> set[int]:
        return {os.getpid()}

    def exited(self) -> str | None:
        return None


@pytest.fixture(scope="module")
def generator() -> Iterator[LoadGenerator]:
    with load_generator() as made:
        yield made


@pytest.fixture(autouse=True)
def _without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_WARM_UP", 0.01)
    monkeypatch.setattr(speed, "UPLOAD", 100_000)
    monkeypatch.setattr(starts, "_SETTLE", 0)
    monkeypatch.setattr(ends, "_RETURN", 0.2)


def test_every_contestant_has_every_column_in_every_round(generator: LoadGenerator) -> None:
    samples = Samples()
    both = [_Contestant("one"), _Contestant("two")]
    speed.measure(both, generator, samples, rounds=2, seconds=0.05, say=lambda _: None)
    assert samples.faults == {}
    assert {column: [set(taken) for taken in rounds] for column, rounds in samples.rounds.items()} == {
        column: [{"one", "two"}] * 2 for probe in speed.PROBES for column in probe.columns
    }
    assert all(value > 0 for rounds in samples.rounds.values() for taken in rounds for value in taken.values())


def test_a_tool_that_answers_wrongly_costs_its_column_alone(generator: LoadGenerator) -> None:
    samples = Samples()
    contestant = _Contestant("one", refuses=Tool.ITEMS)
    speed.measure([contestant], generator, samples, rounds=1, seconds=0.05, say=lambda _: None)
    assert samples.of("one", "stream") == []
    assert (samples.fault("one", "stream") or "").startswith("items: 500 the model's file is missing")
    assert len(samples.of("one", "p50")) == 1


def test_starts_and_memory_of_one_and_of_eight() -> None:
    samples = Samples()
    starts.measure([_Contestant("one")], samples, rounds=1, say=lambda _: None)
    assert samples.faults == {}
    assert {column for column in samples.rounds if samples.of("one", column)} == {
        "start",
        "memory",
        "start_many",
        "memory_many",
    }
    assert 1 < samples.of("one", "memory")[0] < 10_000


def test_ends_are_told_apart_from_the_neighbours() -> None:
    samples = Samples()
    found: dict[str, dict[str, ends.End]] = {}
    ends.measure([_Contestant("one")], samples, found, lambda _: None)
    assert samples.faults == {}
    load, kill = found["one"]["load"], found["one"]["kill"]
    assert load.caller.startswith("500 the model's file is missing")
    assert load.neighbour.startswith("200")
    assert load.health.startswith("/ill: 200 well")
    assert kill.caller.startswith("no answer connection closed")
    assert (kill.next_caller[:3], kill.neighbour[:3], kill.server) == ("500", "200", "runs")
    assert kill.back == "not within 0 s"
