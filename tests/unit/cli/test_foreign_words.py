"""Text from plugins, callers and libraries is printed as it is, whatever it looks like."""

from __future__ import annotations

import pytest

ODD = "times=[/foo] is no list[int] :warning: [red]x[/red] and [bold"
RUN = "/v1/plugins/echo/tools/say/run"


def envelope(**rest):
    return {"ok": False, "result": None, "error": ODD, "error_type": None, "reason_code": None, **rest}


def test_the_error_of_a_run(api):
    api.says(RUN, envelope(error_type="[/Odd]"), 422)
    result = api.call("run", "echo", "say", "-p", "times=[/foo]")
    assert result.exit_code == 1
    assert result.stderr == f"[/Odd]: {ODD}\n"


def test_the_error_of_any_other_request(api):
    api.says("/v1/plugins", {"error": ODD}, 500)
    result = api.call("plugins")
    assert (result.exit_code, result.stderr) == (1, f"500: {ODD}\n")


def test_a_parameter_without_a_value(api):
    result = api.call("run", "echo", "say", "-p", "[/foo]")
    assert (result.exit_code, result.stderr) == (2, "'[/foo]': expected parameter=value\n")


def test_an_unreachable_address(api, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://[::1]:1")
    result = api.call("plugins")
    assert result.exit_code == 3
    assert "at http://[::1]:1: " in result.stderr


@pytest.mark.parametrize("url", ["foo", "http://127.0.0.1:abc", "ftp://127.0.0.1", "http://"])
def test_an_invalid_address(api, monkeypatch, url):
    monkeypatch.setenv("ORCHESTRATOR_URL", url)
    result = api.call("plugins")
    assert (result.exit_code, result.stderr) == (
        2,
        f"ORCHESTRATOR_URL: {url!r} is not an address such as http://127.0.0.1:8000\n",
    )


def test_tools(api):
    schema = {"properties": {"items": {"type": "array", "default": [":x:"], "description": ODD}}}
    api.says("/v1/plugins/echo/tools", [{"name": "[/say]", "description": ODD, "input_schema": schema}])
    result = api.call("tools", "echo")
    assert result.stdout.splitlines() == [f"[/say]  {ODD}", f'    items: list = [":x:"]  {ODD}']


def test_gpus(api):
    gpu = {"uuid": "[/GPU]", "name": "[/name]", "fault": "[/fault]", "holders": [{"plugin": "[/echo]"}]}
    api.says("/v1/gpus", {"reason": ODD, "reason_code": "[/C]", "devices": [gpu], "quarantines": [ODD]})
    result = api.call("gpus", columns=200)
    first, _, row, last = result.stdout.splitlines()
    assert (first, last) == (f"[/C]: {ODD}", ODD)
    assert all(word in row for word in ("[/GPU]", "[/name]", "[/fault]", "[/echo]"))


@pytest.mark.parametrize("command", [("plugins",), ("health", "echo"), ("events", "echo")])
def test_plugins_health_and_events(api, command):
    sick = api.plugin(
        name="[/echo]",
        reason=ODD,
        checks=[{"name": "[/check]", "ok": False, "detail": ODD, "source": "host"}],
        container={"[/key]": ODD},
    )
    event = {"id": 1, "time": "now", "generation": 1, "state": "FAILED", "reason_code": "CRASHED", "reason": ODD}
    api.says("/v1/plugins", [sick])
    api.says("/v1/plugins/echo/health", sick)
    api.says("/v1/plugins/echo/events", [event])
    result = api.call(*command, columns=200)
    assert not isinstance(result.exception, Exception)
    assert ODD in result.stdout, result.stderr
    if command[0] == "health":
        assert "check [/check]" in result.stdout and "container.[/key]" in result.stdout
