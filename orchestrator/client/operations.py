"""Every operation of the API, once for both clients: generators that yield requests and receive answers.

An error reaches them as an exception at the `yield`.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

from orchestrator.client.arguments import prepared
from orchestrator.client.errors import ApiError, RunNotFinished, UnexpectedAnswer, error_of
from orchestrator.client.models import (
    Envelope,
    Gpus,
    LifecycleEvent,
    Plugin,
    PluginDetail,
    Run,
    Tool,
)
from orchestrator.client.streams import NDJSON
from orchestrator.client.transport import MAX_RETRYING, Answer, Request, of_gateway, segment

T = TypeVar("T")
Flow = Generator[Request, Answer, T]

_MAX_WAIT: Final = 50.0
"""Seconds that one request waits: proxies give up after 60."""
_MIN_WAIT: Final = 1.0
_COMMAND_WAIT: Final = 30.0
"""The same for a restart or start, which ends the old instance first."""
_SHOWN_WAIT: Final = 1.0
"""The same where the caller is to be shown what goes on."""
_POLL_INTERVAL: Final = 1.0
"""Seconds between looks at a plugin that starts."""


def plugins() -> Flow[list[Plugin]]:
    return _list((yield Request("GET", "/v1/plugins")))


def health(plugin: str) -> Flow[PluginDetail]:
    found: PluginDetail = _object((yield Request("GET", f"/v1/plugins/{segment(plugin)}/health")))
    return found


def tools(plugin: str) -> Flow[list[Tool]]:
    return _list((yield Request("GET", f"/v1/plugins/{segment(plugin)}/tools")))


def gpus() -> Flow[Gpus]:
    found: Gpus = _object((yield Request("GET", "/v1/gpus")))
    return found


def release_gpu(uuid: str) -> Flow[Gpus]:
    found: Gpus = _object((yield Request("POST", f"/v1/gpus/{segment(uuid)}/release")))
    return found


def events(plugin: str | None, after: int | None, limit: int) -> Flow[list[LifecycleEvent]]:
    params = {"limit": limit} if after is None else {"limit": limit, "after": after}
    return _list((yield Request("GET", events_path(plugin), params=params)))


def command(
    plugin: str,
    action: Literal["restart", "start", "stop"],
    wait: float,
    on_wait: Callable[[PluginDetail], object] | None = None,
) -> Flow[PluginDetail]:
    """Restart, start or stop a plugin; its state at most `wait` seconds later. `on_wait` gets it about once a second
    until then. Raises `RestartRefused`.
    """
    end = time.monotonic() + wait
    params = {} if action == "stop" else {"wait": min(wait, _SHOWN_WAIT if on_wait else _COMMAND_WAIT)}
    path = f"/v1/plugins/{segment(plugin)}/{action}"
    found: PluginDetail = _object((yield Request("POST", path, params=params, read_timeout=_COMMAND_WAIT + 120)))
    while action != "stop" and _under_way(found, action) and (left := end - time.monotonic()) > 0:
        if on_wait is not None:
            on_wait(found)
        request = Request("GET", f"/v1/plugins/{segment(plugin)}/health", delay=min(_POLL_INTERVAL, left))
        found = _object((yield request))
    restart = found.get("restart")
    if action == "restart" and restart is not None and restart["state"] == "refused":
        envelope = {"error": restart["reason"], "error_type": "RestartRefused", "plugin": plugin}
        raise error_of(409, {**envelope, "reason_code": restart["reason_code"]})
    return found


def _under_way(plugin: PluginDetail, action: str) -> bool:
    restart = plugin.get("restart")  # an older orchestrator sends none
    preparing = action == "restart" and restart is not None and restart["state"] == "preparing"
    return preparing or plugin["state"] == "LOADED"


def call(plugin: str, tool: str, arguments: Mapping[str, Any]) -> Flow[Envelope]:
    return _envelope((yield run_request(plugin, tool, arguments)))


def start_run(plugin: str, tool: str, arguments: Mapping[str, Any]) -> Flow[Run]:
    """Start an asynchronous run."""
    request = run_request(plugin, tool, arguments, headers={"Prefer": "respond-async"})
    found: Run = _object((yield request))
    if "run_id" not in found or "state" not in found:
        raise UnexpectedAnswer("The orchestrator executed the run at once. It may be too old for asynchronous runs.")
    return found


def runs(plugin: str | None, state: str | None, limit: int, before: int | None) -> Flow[list[Run]]:
    wanted = {"plugin": plugin, "state": state, "limit": limit, "before": before}
    params = {name: value for name, value in wanted.items() if value is not None}
    return _list((yield Request("GET", "/v1/runs", params=params)))


def run(run_id: str) -> Flow[Run]:
    found: Run = _object((yield Request("GET", f"/v1/runs/{segment(run_id)}")))
    return found


def cancel(run_id: str) -> Flow[Run]:
    found: Run = _object((yield Request("DELETE", f"/v1/runs/{segment(run_id)}")))
    return found


def result(run_id: str, timeout: float | None) -> Flow[Envelope]:
    """The run's envelope once it has ended. Raises `RunNotFinished` after `timeout` seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    path = f"/v1/runs/{segment(run_id)}/result"
    longest, delay = _MAX_WAIT, 0.0
    troubled_since: float | None = None
    while True:
        now = time.monotonic()
        wait = longest if end is None else min(longest, max(0.0, end - now))
        try:
            params = {"wait": round(wait, 3)}
            request = Request("GET", path, params=params, read_timeout=wait + 30, delay=delay, waits=True)
            return _envelope((yield request))
        except RunNotFinished:
            troubled_since, delay = None, 0.0
            if end is not None and time.monotonic() >= end:
                raise
        except UnexpectedAnswer as error:
            troubled_since = troubled_since or now
            given_up = troubled_since + MAX_RETRYING if end is None else end
            if not of_gateway(error) or time.monotonic() >= given_up:
                raise
            # A proxy that waits for less than this request did: the next one is shorter.
            longest = max(_MIN_WAIT, longest / 2)
            delay = _POLL_INTERVAL if end is None else max(0.0, min(_POLL_INTERVAL, end - time.monotonic()))


def wait(run_id: str, timeout: float | None) -> Flow[Run]:
    """The run once it has ended in whatever way, or after `timeout` seconds."""
    with suppress(ApiError):  # a failed run is no error here; what else failed fails in the next line too
        yield from result(run_id, timeout)
    return (yield from run(run_id))


def run_request(
    plugin: str, tool: str, arguments: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
) -> Request:
    path = f"/v1/plugins/{segment(plugin)}/tools/{segment(tool)}/run"
    return Request("POST", path, headers=headers or {}, arguments=prepared(arguments), read_timeout=None)


def stream_request(plugin: str, tool: str, arguments: Mapping[str, Any]) -> Request:
    return run_request(plugin, tool, arguments, headers={"Accept": f"{NDJSON}, application/json"})


def logs_request(plugin: str, tail: int, *, follow: bool, build: bool) -> Request:
    wanted = {"follow": follow and not build, "build": build}
    params = {"tail": tail, **{name: "true" for name, yes in wanted.items() if yes}}
    return Request("GET", f"/v1/plugins/{segment(plugin)}/logs", params=params, read_timeout=None if follow else 30)


def events_path(plugin: str | None) -> str:
    return "/v1/events" if plugin is None else f"/v1/plugins/{segment(plugin)}/events"


def _list(answer: Answer) -> list[Any]:
    content = answer.json()
    if not isinstance(content, list):
        raise UnexpectedAnswer("The answer is not a list. Is that the orchestrator?", status=answer.status)
    return content


def _object(answer: Answer) -> Any:
    content = answer.json()
    if not isinstance(content, dict):
        raise UnexpectedAnswer("The answer is not an object. Is that the orchestrator?", status=answer.status)
    return content


def _envelope(answer: Answer) -> Envelope:
    found: Envelope = _object(answer)
    if not found.get("ok"):
        raise UnexpectedAnswer("The answer has no envelope. Is that the orchestrator?", status=answer.status)
    return found
