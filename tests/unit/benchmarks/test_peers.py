"""What is pure in `make bench-peers`: process trees, samples, tables, the check of answers, descriptions of peers."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.peers import page
from benchmarks.peers.adapters import PEERS
from benchmarks.peers.answers import Answer, fault_of
from benchmarks.peers.contestant import ITEMS, PLUGIN, TEXT, NotAvailableError, Setup, Tool
from benchmarks.peers.ends import End
from benchmarks.peers.environments import environment
from benchmarks.peers.peer import multipart
from benchmarks.peers.process_tree import Process, end_all, processes, tree
from benchmarks.peers.samples import Samples
from benchmarks.peers.speed import PROBES
from benchmarks.peers.table import COLUMNS, OURS, TARGETS, markdown, targets
from benchmarks.processes import cpu_nanoseconds
from support.checkout import TESTS
from support.uv import UvError


def test_a_tree_has_descendants_and_orphans_of_the_session() -> None:
    """An orphan's parent is the first process then, but its session stays."""
    there = {
        1: Process(0, 1, 0),
        10: Process(1, 10, 5),
        11: Process(10, 10, 6),
        12: Process(11, 12, 7),
        13: Process(1, 10, 8),
        20: Process(1, 20, 9),
    }
    assert tree(there, 10) == {10, 11, 12, 13}


def test_everything_of_a_tree_is_ended() -> None:
    """Also a child in a session of its own, which ignores SIGTERM, whose parent has ended."""
    code = (
        "import os, signal, subprocess, sys, time\n"
        "child = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'\n"
        "print(subprocess.Popen([sys.executable, '-c', child], start_new_session=True).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert root.stdout is not None
    child = int(root.stdout.readline())
    there = processes()
    seen = {pid: there[pid] for pid in tree(there, root.pid)}
    assert child in seen
    root.kill()
    root.wait()
    end_all(root.pid, seen, grace=0.2)
    end = time.monotonic() + 10
    while child in processes():
        assert time.monotonic() < end, "the child still runs"
        time.sleep(0.01)
    root.stdout.close()


def test_cpu_time_has_that_of_threads_that_have_ended() -> None:
    before = cpu_nanoseconds(os.getpid())
    thread = threading.Thread(target=lambda: sum(range(2_000_000)))
    thread.start()
    thread.join()
    assert cpu_nanoseconds(os.getpid()) - before > 1_000_000
    with pytest.raises(OSError, match="Invalid"):
        cpu_nanoseconds(2**22 + 1)


def test_a_ratio_is_of_one_round() -> None:
    """A round in which one of them failed has none."""
    samples = Samples()
    for ours, theirs in ((2.0, 1.0), (3.0, None), (40.0, 10.0)):
        samples.begin_round(["p50"])
        samples.add(OURS, "p50", ours)
        if theirs is not None:
            samples.add("mosec", "p50", theirs)
    assert samples.ratios(OURS, "mosec", "p50") == [2.0, 4.0]
    assert samples.of("mosec", "p50") == [1.0, 10.0]
    assert samples.median(OURS, "p50") == 3.0
    assert samples.median("kserve", "p50") is None


def test_an_error_is_noted_and_the_others_go_on() -> None:
    said: list[str] = []
    samples = Samples(say=said.append)
    with samples.noting("mosec"):
        raise NotAvailableError("cannot be installed: no such version")
    for _ in range(2):
        with samples.noting("kserve", "p50", "cpu"):
            error = RuntimeError("3 of 9 answers bad")
            error.add_note("its log")
            raise error
    assert samples.fault("mosec", "p50") == "cannot be installed: no such version"
    assert samples.fault("kserve", "cpu") == "3 of 9 answers bad"
    assert samples.fault("kserve", "stream") is None
    assert said[-1] == "kserve: 3 of 9 answers bad\nits log"


@pytest.mark.parametrize(
    ("tool", "text", "good"),
    [
        (Tool.ECHO, json.dumps({"output": TEXT}), True),
        (Tool.ECHO, json.dumps({"output": "The quick"}), False),
        (Tool.DIGEST, hashlib.sha256(b"content").hexdigest(), True),
        (Tool.DIGEST, hashlib.sha256(b"other").hexdigest(), False),
        (Tool.ITEMS, "\n".join(f"item-{number}" for number in range(ITEMS)), True),
        (Tool.ITEMS, "\n".join(f"item-{number}" for number in range(ITEMS - 1)), False),
        (Tool.BURN, "10", True),
    ],
)
def test_an_answer_must_have_the_tools_result(tool: Tool, text: str, good: bool) -> None:
    assert (fault_of(tool, b"content", Answer(200, text, 0.1)) is None) is good
    assert fault_of(tool, b"content", Answer(500, text, 0.1)) is not None
    assert fault_of(tool, b"content", Answer(None, "connection refused", 0.1)) is not None


def test_an_answer_is_one_short_line() -> None:
    assert str(Answer(502, "it\n was   killed", 0.0123)) == "502 it was killed (0.012 s)"
    assert str(Answer(None, "within 10 s", 10.0)) == "no answer within 10 s (10.0 s)"
    assert len(str(Answer(500, "x" * 5000, 1))) < 200
    assert Answer(200, f'{{"result": "{TEXT}"}}', 1.5).summary(Tool.ECHO) == "200 with its result (1.5 s)"
    assert Answer(200, "failed", 1.5).summary(Tool.ECHO) == "200 failed (1.5 s)"


def _contestant(name: str, title: str) -> Any:
    return SimpleNamespace(name=name, title=title, isolation="nothing")


def test_the_tables() -> None:
    """Medians with their spread, ratios, targets with verdicts, ends, and why something is missing."""
    samples = Samples()
    for ours, theirs in ((3.0, 1.0), (5.0, 1.0)):
        samples.begin_round(["p50", "start"])
        samples.add(OURS, "p50", ours)
        samples.add("mosec", "p50", theirs)
    with samples.noting("mosec", "start", "memory"):
        raise RuntimeError("exited | with 1")
    killed = End("502 KILLED (0.01 s)", "503", "/health: 200", "200", "runs", "not within 20 s")
    contestants = [_contestant(OURS, "this project"), _contestant("mosec", "mosec 0.9.8")]
    text = markdown(samples, contestants, {OURS: {"kill": killed}, "mosec": {}})
    lines = text.splitlines()
    assert "| this project | - | 4 (3…5) | - | - | - | - | - | - | - | - |" in lines
    assert "| mosec 0.9.8 | - | 4 | - | - | - | - | - | - | - | - |" in lines
    assert "| ours over mosec: small call, p50 | ≤ 2 | 4 x | 3 … 5, n=2 | missed |" in lines
    assert "| this project | 502 KILLED (0.01 s) | 503 | /health: 200 | 200 | runs | not within 20 s |" in lines
    assert "- mosec 0.9.8, start to first answer; memory of one plugin: exited \\| with 1" in lines
    widths = {line.count(" | ") for line in lines if line.startswith("| mosec")}
    assert widths <= {10, 5, 6}


def test_targets_without_samples_are_left_out() -> None:
    assert targets(Samples()) == []


def test_every_column_and_every_target_is_measured_and_every_probe_has_a_column() -> None:
    filled = {column for probe in PROBES for column in probe.columns} | {"start", "start_many", "memory", "memory_many"}
    assert {column.key for column in COLUMNS} == filled
    assert {key for key, _, _ in TARGETS} <= filled
    assert {than for _, than, _ in TARGETS} - {"before"} <= set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_a_call_for_every_tool(name: str) -> None:
    """With the content in it, and a server that it goes to."""
    peer = PEERS[name]()
    setup = Setup((PLUGIN,), for_load=True)
    for tool in Tool:
        call = peer.call(tool, PLUGIN, b"\xffcontent", 1)
        assert call.path.startswith("/")
        assert (TEXT.encode() in call.body) is (tool is Tool.ECHO)
        assert peer.server_of(PLUGIN, tool) in peer.servers(setup)
    assert peer.health(PLUGIN)
    assert "==" in peer.requirements[0]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_serves_all_plugins(name: str) -> None:
    """On one server, or on one for each."""
    setup = Setup(("a", "b"))
    served: list[str] = []
    for part in PEERS[name]().servers(setup).values():
        served += part.plugins
    assert served == ["a", "b"]


def test_a_form_has_the_file_between_its_boundaries() -> None:
    body, media_type = multipart("data", b"\xff\x00")
    boundary = media_type.partition("boundary=")[2].encode()
    assert body.count(boundary) == 2
    assert b'name="data"' in body
    assert b"\r\n\r\n\xff\x00\r\n--" in body
    assert body.endswith(b"--\r\n")


def test_an_environment_is_made_once_and_anew_for_other_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Sequence[object]] = []

    def run(*arguments: object, **_: object) -> str:
        ran.append(arguments)
        (tmp_path / "peer").mkdir(exist_ok=True)
        return ""

    monkeypatch.setenv("PEERS_CACHE", str(tmp_path))
    monkeypatch.setattr("benchmarks.peers.environments.run_uv", run)
    assert environment("peer", ["a==1"]) == tmp_path / "peer" / "bin" / "python"
    assert len(ran) == 2
    environment("peer", ["a==1"])
    assert len(ran) == 2
    environment("peer", ["a==2"])
    assert len(ran) == 4


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> str:
        raise UvError("No solution found:\n  a==9 does not exist")

    monkeypatch.setenv("PEERS_CACHE", str(tmp_path))
    monkeypatch.setattr("benchmarks.peers.environments.run_uv", run)
    with pytest.raises(NotAvailableError, match="cannot be installed: No solution found: a==9 does not exist"):
        environment("peer", ["a==9"])


def test_the_page_gets_the_tables_between_its_marks(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n")
    page.write("new\n", file)
    assert file.read_text() == f"before\n{page.BEGIN}\nnew\n\n{page.END}after\n"
    file.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        page.write("new\n", file)


def test_the_page_names_every_peer() -> None:
    readme = (TESTS / "benchmarks" / "README.md").read_text()
    assert page.BEGIN in readme
    assert page.END in readme
    assert [peer.title for peer in PEERS.values() if peer.title not in readme] == []
