"""`logs -f` goes on with the next instance, and says so on stderr; stdout holds the log alone."""

from __future__ import annotations

import httpx
import pytest
from support.scripted_transport import ScriptedTransport

from orchestrator.cli import connection, plugins
from orchestrator.client import Client


class Story(ScriptedTransport):
    """What the orchestrator answers, by route, in turn; at the end of the story the operator presses Ctrl-C."""

    def __init__(self, *, health: list[dict[str, object]], logs: list[str]) -> None:
        super().__init__()
        self._health, self._logs = health, logs

    def handle_request(self, request):
        self.requests.append(request)
        if request.url.path.endswith("/health"):
            return httpx.Response(200, json=self._health.pop(0))
        if not self._logs:
            raise KeyboardInterrupt
        return httpx.Response(200, text=self._logs.pop(0))


def instance(generation: int, code: str | None = None) -> dict[str, object]:
    return {"name": "echo", "generation": generation, "reason_code": code, "reason": code and f"because of {code}"}


@pytest.fixture
def follow(api, monkeypatch):
    monkeypatch.setattr(plugins, "_POLL_INTERVAL", 0.0)

    def follow(story: Story):
        monkeypatch.setattr(connection, "Client", lambda *_, **__: Client("http://x", transport=story, retries=0))
        return api.call("logs", "echo", "-f")

    return follow


def test_the_log_of_the_next_instance_follows(follow):
    health = [instance(1), instance(1, "STOPPED"), instance(1, "STOPPED"), instance(2), instance(2)]
    result = follow(Story(health=health, logs=["2026-01-01 one\n", "2026-01-02 two\n"]))
    assert result.stdout == "2026-01-01 one\n2026-01-02 two\n"
    assert result.stderr.splitlines() == [
        "Instance 1 of echo has ended: STOPPED: because of STOPPED",
        "Instance 2 of echo:",
    ]
    assert result.exit_code == 130


def test_the_next_instance_may_be_there_already(follow):
    result = follow(Story(health=[instance(1), instance(3), instance(3)], logs=["1 one\n", "2 two\n"]))
    assert (result.stdout, result.stderr) == ("1 one\n2 two\n", "Instance 3 of echo:\n")


def test_a_stream_that_broke_off_repeats_no_line(follow):
    result = follow(Story(health=[instance(1)] * 4, logs=["1 one\n2 two\n", "1 one\n2 two\n3 three\n"]))
    assert (result.stdout, result.stderr) == ("1 one\n2 two\n3 three\n", "")


def test_an_instance_without_a_container_is_awaited(follow):
    result = follow(Story(health=[instance(1)] * 4, logs=["", "", "1 one\n"]))
    assert result.stdout == "1 one\n"
    assert result.exit_code == 130
