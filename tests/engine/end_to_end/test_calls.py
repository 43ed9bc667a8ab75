"""Calls through the real system: HTTP, orchestrator, socket, container, worker."""

import gzip
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.checkout import TESTS
from support.live import LiveOrchestrator, live_orchestrator, pause_container

ECHO = TESTS / "fixtures" / "plugins" / "echo"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveOrchestrator]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "echo").symlink_to(ECHO)
    with live_orchestrator([folder]) as orchestrator:
        orchestrator.wait_ready(300)
        yield orchestrator


def test_an_upload_reaches_a_bytes_parameter(live: LiveOrchestrator) -> None:
    """Multipart, raw body and base64 in JSON give the same bytes."""
    data = bytes(range(256)) * 40_000
    expected = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    raw = live.client.post(
        "/v1/plugins/echo/tools/sum_bytes/run", content=data, headers={"Content-Type": "application/octet-stream"}
    )
    assert raw.json()["result"] == expected
    assert live.run("echo", "sum_bytes", files={"data": ("x.bin", data)}).json()["result"] == expected


def test_a_compressed_upload_reaches_the_tool_as_it_was(live: LiveOrchestrator) -> None:
    """Its headers go with it into the container, which decompresses it; a coding that it does not know is refused."""
    data = bytes(range(256)) * 40_000
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip", "Content-Disposition": 'x; filename="a.nii.gz"'}
    route = "/v1/plugins/echo/tools/{}/run"
    for content in (gzip.compress(data), iter([gzip.compress(data)])):
        saved = live.client.post(route.format("save"), content=content, headers=headers).json()["result"]
        assert (saved["length"], saved["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert saved["path"].endswith("/file.nii.gz")
    text = gzip.compress(json.dumps({"text": "hi"}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert live.client.post(route.format("echo"), content=text, headers=headers).json()["result"] == "hi"
    refused = live.client.post(route.format("echo"), content=text, headers={**headers, "Content-Encoding": "br"})
    assert (refused.status_code, refused.headers["Accept-Encoding"]) == (415, "gzip, deflate, identity")


def test_an_upload_larger_than_the_memory_limit_reaches_a_path_parameter(live: LiveOrchestrator) -> None:
    """It is streamed to the scratch disk; the orchestrator never holds it in memory."""
    size = live.health("echo")["limits"]["memory_bytes"] + 64 * 1024 * 1024
    before = _resident(live)

    def chunks() -> Iterator[bytes]:
        for _ in range(size // 2**20):
            yield bytes(2**20)

    response = live.client.post(
        "/v1/plugins/echo/tools/save/run", content=chunks(), headers={"Content-Type": "application/octet-stream"}
    )
    assert response.json()["result"]["length"] == size // 2**20 * 2**20, response.text
    assert _resident(live) - before < 32 * 2**20


def test_a_generator_is_streamed_as_it_yields(live: LiveOrchestrator) -> None:
    """The first line arrives long before the last; the end event is the envelope."""
    times, lines = [], []
    with live.client.stream(
        "POST",
        "/v1/plugins/echo/tools/count/run",
        json={"n": 5, "interval": 0.2},
        headers={"Accept": "application/x-ndjson"},
    ) as response:
        for line in response.iter_lines():
            times.append(time.monotonic())
            lines.append(json.loads(line))
    assert [line["event"] for line in lines] == ["progress", "item"] * 5 + ["end"]
    assert [line["data"]["number"] for line in lines if line["event"] == "item"] == [0, 1, 2, 3, 4]
    assert lines[-1]["ok"] is True
    assert lines[-1]["plugin"] == "echo"
    assert times[-1] - times[0] > 0.35


def test_a_generator_is_collected_for_a_caller_that_does_not_stream(live: LiveOrchestrator) -> None:
    """The result is the list of its items."""
    assert live.run("echo", "count", {"n": 3}).json()["result"] == [{"number": 0}, {"number": 1}, {"number": 2}]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "phrase"),
    [
        (b"{broken", "application/json", 400, "JSON"),
        (b'["a list"]', "application/json", 422, "object"),
        (b"x=1", "application/x-www-form-urlencoded", 422, "no parameter named 'x'"),
        (b"text", "text/plain", 415, "text/plain"),
        (b'{"text": 4}', "application/json", 422, "text"),
        (b"{}", "application/json", 422, "text"),
        (b'{"text": "x", "more": 1}', "application/json", 422, "more"),
    ],
)
def test_an_invalid_body_is_refused_with_the_reason(
    live: LiveOrchestrator, content: bytes, content_type: str, status: int, phrase: str
) -> None:
    """4xx with an envelope that names the fault; the plugin goes on and counts no error."""
    before = live.health("echo")
    response = live.client.post(
        "/v1/plugins/echo/tools/echo/run", content=content, headers={"Content-Type": content_type}
    )
    assert response.status_code == status, response.text
    assert phrase in response.json()["error"]
    after = live.health("echo")
    assert after["error_count"] == before["error_count"]
    assert live.run("echo", "echo", {"text": "on"}).json()["result"] == "on"


def test_runs_are_queued_and_refused_when_the_queue_is_full(live: LiveOrchestrator) -> None:
    """`concurrency` execute, `queue` wait, the rest get 429 with Retry-After; none is lost."""
    limits = live.health("echo")["limits"]
    capacity = limits["concurrency"] + limits["queue"]
    with ThreadPoolExecutor(capacity + 6) as pool:
        answers = list(pool.map(lambda _: live.run("echo", "sleep", {"seconds": 0.3}), range(capacity + 6)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(429) >= 1
    assert codes.count(200) >= capacity
    assert set(codes) == {200, 429}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 429)
    health = live.health("echo")
    assert (health["in_flight"], health["queued"]) == (0, 0)


def test_logs_hold_what_a_tool_printed(live: LiveOrchestrator) -> None:
    """Each line follows its time."""
    live.run("echo", "log", {"text": "a line of mine"})
    assert "a line of mine" in live.client.get("/v1/plugins/echo/logs").text


def test_logs_hold_what_ends_no_line(live: LiveOrchestrator) -> None:
    """Such as a prompt, although nothing is printed after it."""
    assert live.run("echo", "prompt", {"text": "your name?"}).json()["ok"] is True
    end = time.monotonic() + 10
    while not (log := live.client.get("/v1/plugins/echo/logs").text.rstrip("\n")).endswith(" your name?"):
        assert time.monotonic() < end, log
        time.sleep(0.05)


def test_a_followed_log_goes_on_with_the_next_instance(live: LiveOrchestrator) -> None:
    """Nothing is lost on the way, and notes say where the one ends and the other begins."""
    before = live.restart("echo")["generation"]
    seen: list[str] = []
    with live.client.stream("GET", "/v1/plugins/echo/logs", params={"follow": "true"}, timeout=60) as answer:
        lines = answer.iter_lines()

        def until(text: str) -> None:
            while not seen or text not in seen[-1]:
                seen.append(next(lines))

        live.run("echo", "log", {"text": "of the first"})
        until("of the first")
        for number in range(200):
            live.run("echo", "log", {"text": f"last {number}"})
        live.restart("echo")
        live.run("echo", "log", {"text": "of the second"})
        until("of the second")
    printed = [line.partition(" ")[2] for line in seen if " last " in line]
    assert printed == [f"last {number}" for number in range(200)]
    notes = [line for line in seen if line.startswith("--- ")]
    assert notes[0].startswith(f"--- instance {before} ended: STOPPED: ")
    assert notes[1] == f"--- instance {before + 1} ---"


def test_stop_and_start_by_an_operator(live: LiveOrchestrator) -> None:
    """Stopped: UNAVAILABLE, no container, 503. Started: the next generation."""
    stopped = live.client.post("/v1/plugins/echo/stop").json()
    assert (stopped["state"], stopped["reason_code"]) == ("UNAVAILABLE", "STOPPED")
    assert live.containers() == []
    assert live.run("echo", "echo", {"text": "x"}).status_code == 503
    started = live.client.post("/v1/plugins/echo/start", params={"wait": 60}).json()
    assert (started["state"], started["generation"]) == ("INITIALIZED", stopped["generation"] + 1)


def test_a_container_killed_from_outside_is_detected_at_once(live: LiveOrchestrator) -> None:
    """FAILED with KILLED, never OUT_OF_MEMORY."""
    live.restart("echo")
    (container,) = live.containers()
    container.kill()
    health = live.wait_for("echo", "FAILED", seconds=2)
    assert health["reason_code"] == "KILLED"
    live.restart("echo")


def test_a_container_removed_from_outside_is_detected(live: LiveOrchestrator) -> None:
    """FAILED with KILLED; a restart works."""
    live.restart("echo")
    (container,) = live.containers()
    container.remove(force=True)
    assert live.wait_for("echo", "FAILED", seconds=5)["reason_code"] == "KILLED"
    assert live.restart("echo")["state"] == "INITIALIZED"


def test_a_container_paused_from_outside_is_detected(live: LiveOrchestrator) -> None:
    """Without any request to it: UNRESPONSIVE, and the reason says that it is paused."""
    live.restart("echo")
    (container,) = live.containers()
    pause_container(container)
    health = live.wait_for("echo", "FAILED", seconds=30)
    assert (health["reason_code"], "paused" in health["reason"]) == ("UNRESPONSIVE", True)
    assert live.restart("echo")["state"] == "INITIALIZED"


def test_concurrent_restarts_all_report_the_newest_instance(live: LiveOrchestrator) -> None:
    """None of them reports the end that another one caused."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: live.restart("echo"), range(4)))
    assert {answer["state"] for answer in answers} == {"INITIALIZED"}
    assert live.run("echo", "echo", {"text": "x"}).json()["ok"] is True


def test_figures_of_an_idle_plugin_are_refreshed(live: LiveOrchestrator) -> None:
    """They are polled every few seconds."""
    before = live.health("echo")["observed_at"]
    time.sleep(7)
    assert live.health("echo")["observed_at"] > before


def _resident(live: LiveOrchestrator) -> int:
    for line in Path(f"/proc/{live.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
