"""`logs -f` goes on with the next instance, and says so on stderr; stdout holds the log alone."""

from __future__ import annotations

import httpx
import pytest
from support.scripted_transport import ScriptedTransport

from orchestrator.cli import connection, plugins
from orchestrator.client import Client


class Story(ScriptedTransport):
    """The streams that the orchestrator answers, in turn; at the end of the story the operator presses Ctrl-C."""

    def __init__(self, *streams: str | httpx.Response) -> None:
        super().__init__()
        self._streams = list(streams)

    def handle_request(self, request):
        self.requests.append(request)
        if not self._streams:
            raise KeyboardInterrupt
        stream = self._streams.pop(0)
        return stream if isinstance(stream, httpx.Response) else httpx.Response(200, text=stream)


@pytest.fixture
def follow(api, monkeypatch):
    monkeypatch.setattr(plugins, "_POLL_INTERVAL", 0.0)

    def follow(*streams: str | httpx.Response, options: tuple[str, ...] = ()):
        follow.story = story = Story(*streams)
        monkeypatch.setattr(connection, "Client", lambda *_, **__: Client("http://x", transport=story, retries=0))
        return api.call("logs", "echo", "-f", *options)

    return follow


def test_notes_go_to_stderr(follow):
    notes = ["--- instance 1 ended: CRASHED: because ---", "--- instance 2 ---"]
    result = follow("2026-01-01 one\n2026-01-01 --- of the plugin\n" + "\n".join(notes) + "\n2026-01-02 two\n")
    assert result.stdout == "2026-01-01 one\n2026-01-01 --- of the plugin\n2026-01-02 two\n"
    assert result.stderr.splitlines() == notes
    assert result.exit_code == 130


def test_a_stream_that_ended_is_opened_again_and_repeats_no_line(follow):
    """The orchestrator was restarted, and has adopted the instance."""
    result = follow("2026-1 one\n2026-2 two\n", "2026-1 one\n2026-2 two\n2026-3 three\n")
    assert (result.stdout, result.stderr) == ("2026-1 one\n2026-2 two\n2026-3 three\n", "")


def test_the_output_of_a_build_has_no_times(follow):
    result = follow("Step 1/2 : FROM python\nno such package\n2026-1 one\n2026-2 two\n")
    assert result.stdout == "Step 1/2 : FROM python\nno such package\n2026-1 one\n2026-2 two\n"


@pytest.mark.parametrize(("options", "tail"), [((), "10"), (("-n", "50"), "50"), (("--all",), "10000")])
def test_a_followed_log_begins_with_its_last_lines(follow, options, tail):
    follow("2026-1 one\n", options=options)
    assert [request.url.params["tail"] for request in follow.story.requests] == [tail, "10000"]


def test_all_lines_and_a_number_of_them_are_no_wish(api):
    result = api.call("logs", "echo", "--all", "-n", "5")
    assert (result.exit_code, result.stderr) == (2, "--all: --tail is given, too\n")


def test_one_of_several_is_followed_to_its_end(follow):
    line, note = "2026-1 one", "--- instance 2 ended: CRASHED: because ---"
    instances = [{"generation": 2, "reason_code": "CRASHED"}, {"generation": 3, "reason_code": None}]
    health = httpx.Response(200, json={"name": "echo", "instances": instances})
    result = follow(f"{line}\n{note}\n", health, options=("--instance", "2"))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{line}\n", f"{note}\n")
    assert follow.story.requests[0].url.params["generation"] == "2"


def test_a_build_is_of_no_instance(api):
    assert api.call("logs", "echo", "--build", "--instance", "2").exit_code == 2


def test_all_instances_are_followed(follow):
    """Also after the orchestrator was started anew, which ends no instance."""
    streams = "2026-1 [1] one\n2026-2 [2] two\n", "2026-2 [2] two\n2026-3 [1] three\n"
    result = follow(*streams, options=("--instance", "all"))
    assert (result.stdout, result.exit_code) == ("2026-1 [1] one\n2026-2 [2] two\n2026-3 [1] three\n", 130)
    assert {request.url.params["generation"] for request in follow.story.requests} == {"all"}


@pytest.mark.parametrize("instance", ["0", "-1", "some", "1.5"])
def test_what_is_no_instance_is_said(api, instance):
    result = api.call("logs", "echo", "--instance", instance)
    said = "neither the number of an instance nor `all`" in " ".join(result.stderr.split())
    assert (result.exit_code, said) == (2, True)
