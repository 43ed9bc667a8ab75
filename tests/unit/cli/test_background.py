"""`up` uses only an orchestrator that it started itself."""

from __future__ import annotations

import os

import pytest

from orchestrator.cli import background


@pytest.fixture
def state(api, monkeypatch, tmp_path):
    def launch(settings):
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(background, "_launch", launch)
    monkeypatch.setenv("ORCHESTRATOR_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", str(tmp_path))
    api.says("/readyz", {"status": "ready", "waiting_for": []})
    api.says("/v1/plugins", [])
    return tmp_path


@pytest.mark.parametrize("pid", [None, "", "0", str(os.getpid())])
@pytest.mark.parametrize("answer", [(200, {"status": "ok"}), (404, "no such page")])
def test_another_program_at_the_address_is_reported_and_not_used(api, state, pid, answer):
    api.says("/healthz", answer[1], answer[0])
    if pid is not None:
        (state / "orchestrator.pid").write_text(pid)
    result = api.call("up")
    assert result.exit_code == 1
    assert f"Another orchestrator or program answers at http://127.0.0.1:{api.port}," in result.stderr
    assert "ORCHESTRATOR_PORT" in result.stderr


def test_our_own_is_used(api, state, monkeypatch):
    api.says("/healthz", {"status": "ok"})
    monkeypatch.setattr(background, "_running_pid", lambda _: 7)
    result = api.call("up")
    assert result.exit_code == 0, result.output
    assert "answers at" in result.stdout and "already" in result.stdout


def test_one_is_started_where_nothing_answers(api, state, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:1")
    assert str(api.call("up").exception) == "nothing may be started"
