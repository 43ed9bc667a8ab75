"""Every operation of the API, once for both clients: generators that yield requests and receive answers.

An error reaches them as an exception at the `yield`.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Literal, TypeVar

from orchestrator.client.arguments import prepared
from orchestrator.client.errors import ApiError, InvalidRequest, RunNotFinished, UnexpectedAnswer, error_of
from orchestrator.client.models import (
    AskedStrategy,
    Delivery,
    Drained,
    Envelope,
    Gpus,
    Host,
    LifecycleEvent,
    Plugin,
    PluginDetail,
    PluginPlacement,
    Run,
    Tool,
    Update,
    Webhook,
    WebhookTest,
)
from orchestrator.client.streams import NDJSON, whole_run
from orchestrator.client.transport import MAX_RETRYING, Answer, Request, of_gateway, segment

T = TypeVar("T")
Flow = Generator[Request, Answer, T]

_MAX_WAIT: Final = 50.0
"""Seconds that one request waits: proxies give up after 60."""
_MIN_WAIT: Final = 1.0
_COMMAND_WAIT: Final = 10.0
"""The same for a restart or start, which may do other things first."""
_MOVE_TIMEOUT: Final = 4400.0
"""For a move: a build and a start on the new host, then the longest drain on the old one."""
_SHOWN_WAIT: Final = 1.0
"""The same where the caller is to be shown what goes on."""
_POLL_INTERVAL: Final = 1.0
"""Seconds between looks at a plugin that starts."""
_STREAMED: Final = {"Accept": f"{NDJSON}, application/json"}
"""Of every run: a stream has heartbeats, and a proxy does not end it."""


def plugins() -> Flow[list[Plugin]]:
    return (yield Request("GET", "/v1/plugins")).as_list()


def health(plugin: str) -> Flow[PluginDetail]:
    found: PluginDetail = (yield Request("GET", health_path(plugin))).as_object()
    return found


def tools(plugin: str) -> Flow[list[Tool]]:
    return (yield Request("GET", f"/v1/plugins/{segment(plugin)}/tools")).as_list()


def gpus() -> Flow[Gpus]:
    found: Gpus = (yield Request("GET", "/v1/gpus")).as_object()
    return found


def release_gpu(uuid: str) -> Flow[Gpus]:
    found: Gpus = (yield Request("POST", f"/v1/gpus/{segment(uuid)}/release")).as_object()
    return found


def hosts() -> Flow[list[Host]]:
    return (yield Request("GET", "/v1/hosts")).as_list()


def host_command(host: str, action: Literal["drain", "resume"]) -> Flow[Drained]:
    """Returns once all plugins that fit elsewhere serve there."""
    path = f"/v1/hosts/{segment(host)}/{action}"
    found: Drained = (yield Request("POST", path, read_timeout=_MOVE_TIMEOUT)).as_object()
    return found


def forget_host(host: str) -> Flow[dict[str, Any]]:
    found: dict[str, Any] = (yield Request("POST", f"/v1/hosts/{segment(host)}/forget")).as_object()
    return found


def move(plugin: str, to: str, source: str | None, *, force: bool) -> Flow[PluginDetail]:
    """Returns once it serves on the new host, and on the old one no more."""
    body = {"to": to, "force": force, **({} if source is None else {"from": source})}
    path = f"/v1/plugins/{segment(plugin)}/move"
    request = Request("POST", path, arguments=body, read_timeout=_MOVE_TIMEOUT)
    found: PluginDetail = (yield request).as_object()
    return found


def placement(plugin: str) -> Flow[PluginPlacement]:
    found: PluginPlacement = (yield Request("GET", f"/v1/plugins/{segment(plugin)}/placement")).as_object()
    return found


def events(plugin: str | None, after: int | str | None, limit: int) -> Flow[list[LifecycleEvent]]:
    params = {"limit": limit} if after is None else {"limit": limit, "after": after}
    found: list[LifecycleEvent] = (yield Request("GET", events_path(plugin), params=params)).as_list()
    if not all(isinstance(event.get("id"), int) for event in found):
        raise UnexpectedAnswer("The answer holds events without an id. Is that the orchestrator?")
    return found


def webhooks() -> Flow[list[Webhook]]:
    return (yield Request("GET", "/v1/webhooks")).as_list()


def webhook_deliveries(webhook: str, state: str | None, limit: int, before: int | None) -> Flow[list[Delivery]]:
    wanted = {"state": state, "limit": limit, "before": before}
    params = {name: value for name, value in wanted.items() if value is not None}
    return (yield Request("GET", f"/v1/webhooks/{segment(webhook)}/deliveries", params=params)).as_list()


def repeat_delivery(webhook: str, delivery_id: str) -> Flow[Delivery]:
    path = f"/v1/webhooks/{segment(webhook)}/deliveries/{segment(delivery_id)}/repeat"
    found: Delivery = (yield Request("POST", path)).as_object()
    return found


def test_webhook(webhook: str) -> Flow[WebhookTest]:
    found: WebhookTest = (yield Request("POST", f"/v1/webhooks/{segment(webhook)}/test")).as_object()
    return found


def command(
    plugin: str,
    action: Literal["restart", "start", "scale", "park", "stop"],
    wait: float,
    on_wait: Callable[[PluginDetail], object] | None = None,
    *,
    only: str | None = None,
    body: Mapping[str, Any] | None = None,
) -> Flow[PluginDetail]:
    """Restart, start, scale, park or stop a plugin; its state at most `wait` seconds later. `on_wait` gets it about
    once a second until then. Raises `RestartRefused`.
    """
    wait = _number(wait)
    end = time.monotonic() + wait
    params: dict[str, Any] = {}
    at_once = action in ("park", "stop")
    if not at_once:
        params["wait"] = min(max(0.0, wait), _SHOWN_WAIT if on_wait else _COMMAND_WAIT)
    if only is not None:
        params["only"] = only
    path = f"/v1/plugins/{segment(plugin)}/{action}"
    request = Request("POST", path, params=params, arguments=body, read_timeout=_COMMAND_WAIT + 120)
    found: PluginDetail = (yield request).as_object()
    trouble = _Trouble(end)
    while not at_once and _under_way(found, action) and (left := end - time.monotonic()) > 0:
        if on_wait is not None:
            on_wait(found)
        delay = min(_POLL_INTERVAL, left)
        try:
            answer = yield Request("GET", health_path(plugin), delay=delay, waits=True)
        except UnexpectedAnswer as error:
            trouble.bear(error)
        else:
            found = answer.as_object()
    restart = found.get("restart")
    if action == "restart" and isinstance(restart, dict) and restart.get("state") == "refused":
        envelope = {"error": restart.get("reason"), "error_type": "RestartRefused", "plugin": plugin}
        raise error_of(409, {**envelope, "reason_code": restart.get("reason_code")})
    return found


def update(
    plugin: str, strategy: AskedStrategy, wait: float, on_wait: Callable[[Update, PluginDetail], object] | None
) -> Flow[Update]:
    """Begin an update, and wait for its end. Raises `UpdateUnderWay`."""
    return _updating(plugin, "update", {"strategy": strategy}, wait, on_wait)


def revert(plugin: str, wait: float, on_wait: Callable[[Update, PluginDetail], object] | None) -> Flow[Update]:
    """The same, to the former release. Raises `UpdateUnderWay`, `NothingToRevert`."""
    return _updating(plugin, "revert", None, wait, on_wait)


def updates(plugin: str) -> Flow[list[Update]]:
    return (yield Request("GET", updates_path(plugin))).as_list()


def _updating(
    plugin: str,
    action: Literal["update", "revert"],
    body: Mapping[str, Any] | None,
    wait: float,
    on_wait: Callable[[Update, PluginDetail], object] | None,
) -> Flow[Update]:
    end = time.monotonic() + _number(wait)
    # Who wants to see what goes on sees it from the beginning.
    params = {"wait": 0 if on_wait else min(max(0.0, wait), _COMMAND_WAIT)}
    path = f"/v1/plugins/{segment(plugin)}/{action}"
    request = Request("POST", path, params=params, arguments=body, read_timeout=_COMMAND_WAIT + 120)
    found: Update = (yield request).as_object()
    if not isinstance(found.get("id"), str) or "ended" not in found:
        raise UnexpectedAnswer("The answer is no update. Is that the orchestrator?")
    trouble = _Trouble(end)
    while not found["ended"] and (left := end - time.monotonic()) > 0:
        try:
            if on_wait is not None:
                shown: PluginDetail = (yield Request("GET", health_path(plugin), waits=True)).as_object()
                on_wait(found, shown)
            delay = min(_POLL_INTERVAL, left)
            answer = yield Request("GET", updates_path(plugin), delay=delay, waits=True)
        except UnexpectedAnswer as error:
            trouble.bear(error)
        else:
            listed: list[Update] = answer.as_list()
            found = next((each for each in listed if each["id"] == found["id"]), found)
    return found


def _under_way(plugin: PluginDetail, action: str) -> bool:
    restart = plugin.get("restart")  # an older orchestrator sends none
    preparing = action == "restart" and isinstance(restart, dict) and restart.get("state") == "preparing"
    instances: Any = plugin.get("instances", ())
    return preparing or "LOADED" in (plugin.get("state"), *(each.get("state") for each in instances))


def call(plugin: str, tool: str, arguments: Mapping[str, Any], *, retry: bool) -> Flow[Envelope]:
    return whole_run((yield stream_request(plugin, tool, arguments, retry=retry)))


def start_run(plugin: str, tool: str, arguments: Mapping[str, Any], *, retry: bool) -> Flow[Run]:
    """Start an asynchronous run."""
    prefer = "respond-async, retry" if retry else "respond-async"
    request = run_request(plugin, tool, arguments, headers={"Prefer": prefer})
    found: Run = (yield request).as_object()
    if "run_id" not in found or "state" not in found:
        raise UnexpectedAnswer("The orchestrator executed the run at once. It may be too old for asynchronous runs.")
    return found


def runs(plugin: str | None, state: str | None, limit: int, before: int | str | None) -> Flow[list[Run]]:
    wanted = {"plugin": plugin, "state": state, "limit": limit, "before": before}
    params = {name: value for name, value in wanted.items() if value is not None}
    return (yield Request("GET", "/v1/runs", params=params)).as_list()


def run(run_id: str) -> Flow[Run]:
    found: Run = (yield Request("GET", f"/v1/runs/{segment(run_id)}")).as_object()
    return found


def cancel(run_id: str) -> Flow[Run]:
    found: Run = (yield Request("DELETE", f"/v1/runs/{segment(run_id)}")).as_object()
    return found


def result(run_id: str, timeout: float | None) -> Flow[Envelope]:
    """The run's envelope once it has ended. Raises `RunNotFinished` after `timeout` seconds."""
    end = None if timeout is None else time.monotonic() + _number(timeout)
    path = f"/v1/runs/{segment(run_id)}/result"
    longest, delay = _MAX_WAIT, 0.0
    trouble = _Trouble(end)
    while True:
        wait = longest if end is None else min(longest, max(0.0, end - time.monotonic()))
        try:
            params = {"wait": round(wait, 3)}
            answer = yield Request("GET", path, params=params, read_timeout=wait + 30, delay=delay, waits=True)
        except RunNotFinished:
            trouble.over()
            delay = 0.0
            if end is not None and time.monotonic() >= end:
                raise
        except UnexpectedAnswer as error:
            trouble.bear(error)
            # A proxy that waits for less than this request did: the next one is shorter.
            longest = max(_MIN_WAIT, longest / 2)
            delay = _POLL_INTERVAL if end is None else max(0.0, min(_POLL_INTERVAL, end - time.monotonic()))
        else:
            found: Envelope = answer.as_envelope()
            return found


def wait(run_id: str, timeout: float | None) -> Flow[Run]:
    """The run once it has ended in whatever way, or after `timeout` seconds."""
    try:
        yield from result(run_id, timeout)
    except InvalidRequest as error:
        if error.status is None:  # of these arguments: nothing was sent
            raise
    except ApiError:
        pass  # a failed run is no error here; what else failed fails in the next line too
    return (yield from run(run_id))


class _Trouble:
    """Errors of proxies during one wait, which outlasts them: until `end`, or where it is None for a minute."""

    def __init__(self, end: float | None) -> None:
        self._end = end
        self._since: float | None = None

    def bear(self, error: UnexpectedAnswer) -> None:
        """Raises `error` where it is no proxy's, or the time is over."""
        now = time.monotonic()
        self._since = self._since or now
        if not of_gateway(error) or now >= (self._since + MAX_RETRYING if self._end is None else self._end):
            raise error

    def over(self) -> None:
        self._since = None


def _number(seconds: float) -> float:
    """Raises `InvalidRequest`."""
    try:
        number = float(seconds)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"Seconds to wait have to be a number, not {type(seconds).__name__}. Nothing was sent."
        ) from None
    if math.isnan(number):
        raise InvalidRequest("Seconds to wait are NaN, which is no number. Nothing was sent.")
    return number


def run_request(
    plugin: str, tool: str, arguments: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
) -> Request:
    path = f"/v1/plugins/{segment(plugin)}/tools/{segment(tool)}/run"
    return Request("POST", path, headers=headers or {}, arguments=prepared(arguments), read_timeout=None)


def stream_request(plugin: str, tool: str, arguments: Mapping[str, Any], *, retry: bool) -> Request:
    return run_request(plugin, tool, arguments, headers={**_STREAMED, "Prefer": "retry"} if retry else _STREAMED)


def logs_request(
    plugin: str, tail: int, *, follow: bool, build: bool, generation: int | Literal["all"] | None = None
) -> Request:
    wanted = {"follow": follow and not build, "build": build}
    chosen = {} if generation is None else {"generation": generation}
    params = {"tail": tail, **chosen, **{name: "true" for name, yes in wanted.items() if yes}}
    return Request("GET", f"/v1/plugins/{segment(plugin)}/logs", params=params, read_timeout=None if follow else 30)


def health_path(plugin: str) -> str:
    return f"/v1/plugins/{segment(plugin)}/health"


def updates_path(plugin: str) -> str:
    return f"/v1/plugins/{segment(plugin)}/updates"


def position(events: list[LifecycleEvent], after: int | str | None) -> int | str:
    """Where a stream goes on that follows these events, the first of which comes after `after`."""
    return events[-1].get("cursor", events[-1]["id"]) if events else after or 0


def events_path(plugin: str | None) -> str:
    return "/v1/events" if plugin is None else f"/v1/plugins/{segment(plugin)}/events"
