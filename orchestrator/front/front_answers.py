"""What a front answers by itself: that a host does not answer, and what became of a run there. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from fastapi.responses import Response

from orchestrator.api.problems import problem
from orchestrator.front.forwarded_heads import HOST_HEADER

HOST_UNREACHABLE: Final = "HOST_UNREACHABLE"
"""The reason code of answers for a host that does not answer. No plugin has it: its state there is not known."""


def json_response(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def not_sent(sentence: str, hosts: Sequence[str], plugin: str | None = None) -> Response:
    """Nothing was sent to any host: the caller may send the request again."""
    response = _unreachable(503, f"{sentence} Nothing was started; send the request again later.", hosts, plugin)
    response.headers["Retry-After"] = "1"
    return response


def broken_off(sentence: str, host: str, plugin: str | None = None) -> Response:
    """A request was sent, and no answer came: what it was to change may have changed."""
    return _unreachable(502, f"{sentence} Whether it was done is not known.", [host], plugin)


def run_unknown(sentence: str, host: str, plugin: str | None, tool: str | None, run_id: str) -> Response:
    """A run was sent to a host, and no answer came. It is sent to no other one."""
    text = f"{sentence} Whether the run was executed shows in GET /v1/runs/{run_id} once the host answers again."
    fields = {"plugin": plugin, "tool": tool, "run_id": run_id, "run_state": "unknown"}
    response = _with_fields(_unreachable(502, text, [host], plugin), fields)
    response.headers["X-Run-Id"] = run_id
    return response


def run_not_found(run_id: str, silent: Sequence[str]) -> Response:
    """No host that answers knows the run, and there are others."""
    lacking = f"{_named(silent)} {_verb(silent)} not answer"
    sentence = f"No host that answers knows the run {run_id}, and {lacking}: it may be there."
    response = _with_fields(_unreachable(503, sentence, silent, None), {"run_id": run_id, "run_state": "unknown"})
    response.headers["Retry-After"] = "1"
    return response


def silent_hosts(plugin: str, silent: Sequence[str]) -> Response:
    """All hosts that have the plugin are silent."""
    return not_sent(f"The plugin {plugin} is on {_named(silent)}, which {_verb(silent)} not answer.", silent, plugin)


def not_everywhere(plugin: str, action: str, done: Sequence[str], silent: Sequence[str]) -> Response:
    """A command that means all hosts of the plugin was done at those that answer."""
    sentence = (
        f"The {action} of {plugin} was done on {_named(done)}, and not on {_named(silent)}, which {_verb(silent)} not "
        f"answer: {plugin} may serve there as before. Repeat it once no host is silent."
    )
    return _unreachable(503, sentence, silent, plugin)


def no_hosts() -> Response:
    """Every host has been forgotten."""
    sentence = "This front has no hosts: all of them were forgotten. Add one to hosts.yaml, or start the front anew."
    return _unreachable(503, sentence, (), None)


def unknown_host(name: str) -> Response:
    sentence = f"No host named {name[:80]!r}. GET /v1/hosts lists all hosts."
    return problem(404, sentence, error_type="UnknownHost")


def host_required(plugin: str | None, hosts: Sequence[str]) -> Response:
    """For a command that means one host of several, of a plugin or of the host itself."""
    example = HOST_HEADER.decode().title()
    what = "Each host answers this for itself, and there are" if plugin is None else f"{plugin} is on"
    sentence = f"{what} {_named(hosts)}. Say which of them is meant with the header `{example}: {hosts[0]}`."
    return problem(409, sentence, error_type="HostRequired", plugin=plugin)


def ended_line(response: Response, media_type: str) -> bytes:
    """The last event of a run's stream, in the stream's own form, that says what `response` says."""
    envelope = msgspec.json.decode(response.body)
    line = msgspec.json.encode({"event": "end", "status": response.status_code, **envelope})
    return line + b"\n" if media_type.startswith("application/x-ndjson") else b"event: end\ndata: " + line + b"\n\n"


def _unreachable(status: int, sentence: str, hosts: Sequence[str], plugin: str | None) -> Response:
    fields = {"reason_code": HOST_UNREACHABLE, "host": hosts[0] if len(hosts) == 1 else None}
    return _with_fields(problem(status, sentence, error_type="HostUnreachable", plugin=plugin), fields)


def _with_fields(response: Response, fields: dict[str, Any]) -> Response:
    return Response(
        msgspec.json.encode({**msgspec.json.decode(response.body), **fields}),
        status_code=response.status_code,
        media_type="application/json",
    )


def _named(hosts: Sequence[str]) -> str:
    *others, last = hosts
    return f"{', '.join(others)} and {last}" if others else last


def _verb(hosts: Sequence[str]) -> str:
    return "does" if len(hosts) == 1 else "do"
