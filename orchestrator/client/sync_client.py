"""The client for programs that block."""

import time
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress
from typing import Any, Self

import httpx
import stamina
from httpx_sse import EventSource

from orchestrator.client import operations, streams
from orchestrator.client.errors import Unreachable
from orchestrator.client.models import (
    Envelope,
    Gpus,
    LifecycleEvent,
    Plugin,
    PluginDetail,
    Run,
    StreamEvent,
    Tool,
)
from orchestrator.client.operations import Flow, T
from orchestrator.client.sending import (
    answer_of,
    connection_options,
    error_in,
    request_options,
    retrying,
    translated,
)
from orchestrator.client.streams import EventFeed, Lines, RunEvents
from orchestrator.client.wire import Request, body_options


class Client:
    """Speaks to one orchestrator. Every method raises `ApiError` or one of its kinds. Threads may share one.

    Reading is tried again where the connection fails, and a run where the orchestrator says that it did not begin it
    (429, 503 with Retry-After); nothing else ever is.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`base_url`: ORCHESTRATOR_URL, else http://127.0.0.1:8000. `api_key`: ORCHESTRATOR_API_KEY, else none."""
        self._http = httpx.Client(**connection_options(base_url, api_key), transport=transport)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def address(self) -> str:
        return str(self._http.base_url).rstrip("/")

    def plugins(self) -> list[Plugin]:
        """Every plugin, failed ones included."""
        return self._do(operations.plugins())

    def health(self, plugin: str) -> PluginDetail:
        """One plugin, with what is kept of an instance that ended."""
        return self._do(operations.health(plugin))

    def tools(self, plugin: str) -> list[Tool]:
        """The plugin's tools with their JSON Schemas."""
        return self._do(operations.tools(plugin))

    def gpus(self) -> Gpus:
        """The host's GPUs, how they are, and who holds them."""
        return self._do(operations.gpus())

    def release_gpu(self, uuid: str) -> Gpus:
        """Take a GPU out of quarantine, whatever its memory; all GPUs as they are then."""
        return self._do(operations.release_gpu(uuid))

    def restart(self, plugin: str, *, wait: float = 120.0) -> PluginDetail:
        """Begin a new instance; the plugin once that is ready or has failed, after `wait` seconds as it is then."""
        return self._do(operations.command(plugin, "restart", wait))

    def start(self, plugin: str, *, wait: float = 120.0) -> PluginDetail:
        """Begin an instance where none is alive; see `restart`."""
        return self._do(operations.command(plugin, "start", wait))

    def stop(self, plugin: str) -> PluginDetail:
        """End the instance; answers when its container is gone."""
        return self._do(operations.command(plugin, "stop", 0))

    def run(self, plugin: str, tool: str, /, **arguments: Any) -> Any:
        """The tool's result. Bytes, paths, file objects and `Upload` are sent as files, read from disk as they go."""
        return self.call(plugin, tool, **arguments)["result"]

    def call(self, plugin: str, tool: str, /, **arguments: Any) -> Envelope:
        """As `run`, with the run's id and its time."""
        return self._do(operations.call(plugin, tool, arguments))

    def stream(self, plugin: str, tool: str, /, **arguments: Any) -> Generator[StreamEvent, None, None]:
        """The run's events as they come: `Begun`, any number of `Item` and `Progress`, `End`. Closing it gives the run
        up: a streaming tool is stopped at its next event.
        """
        request = operations.stream_request(plugin, tool, arguments)
        with closing(self._send(request, retries=self._retries)) as response:
            events = RunEvents(response.headers.get("content-type", ""), response.headers.get("x-run-id", ""))
            yield events.begin()
            with translated(self._http.base_url):
                if not events.streams:
                    response.read()
                    yield events.whole(answer_of(response))
                    return
                for chunk in response.iter_bytes():
                    yield from events.feed(chunk)
                events.finish()

    def run_async(self, plugin: str, tool: str, /, **arguments: Any) -> "RunHandle":
        """Begin a run that goes on by itself, whether or not anybody waits for it."""
        return RunHandle(self, self._do(operations.begin(plugin, tool, arguments))["run_id"])

    def handle(self, run_id: str) -> "RunHandle":
        """A run that was begun elsewhere."""
        return RunHandle(self, run_id)

    def runs(
        self, plugin: str | None = None, *, state: str | None = None, limit: int = 100, before: int | None = None
    ) -> list[Run]:
        """Runs, newest first; `before`: only those with smaller `id`."""
        return self._do(operations.runs(plugin, state, limit, before))

    def events(
        self, plugin: str | None = None, *, after: int | None = None, limit: int = 100, follow: bool = False
    ) -> Generator[LifecycleEvent, None, None]:
        """State changes, oldest first: the newest `limit`, or the next ones above `after`; with `follow` then each as
        it comes, without end: after a break it goes on where it was.
        """
        kept = self._do(operations.events(plugin, after, limit))
        yield from kept
        if follow:
            last = kept[-1]["id"] if kept else after or 0
            yield from self._follow(EventFeed(operations.events_path(plugin), kind="lifecycle", after=last))

    def watch(self) -> Generator[Plugin, None, None]:
        """Every plugin as it is now, then each that changed, without end."""
        yield from self._follow(EventFeed("/v1/events", kind="health"))

    def logs(self, plugin: str, *, tail: int = 100, follow: bool = False) -> Generator[str, None, None]:
        """What the container printed, line by line; with `follow` until it ends."""
        request = operations.logs_request(plugin, tail, follow=follow)
        with closing(self._send(request, retries=self._retries)) as response:
            lines = Lines()
            with translated(self._http.base_url):
                for chunk in response.iter_bytes():
                    yield from lines.feed(chunk)
                yield from lines.finish()

    def _do(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                try:
                    response = self._send(request, whole=True, retries=self._retries)
                except Exception as error:  # noqa: BLE001 - the flow decides what it means, and most raise it again
                    request = flow.throw(error)
                else:
                    request = flow.send(answer_of(response))
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request, *, whole: bool = False, retries: int | None) -> httpx.Response:
        """An answer that is no error: its head, or `whole` of it."""
        for attempt in stamina.retry_context(**retrying(request, retries)):
            with attempt, ExitStack() as files:
                options = request_options(request) | body_options(request.arguments, files)
                built = self._http.build_request(request.method, request.path, **options)
                with translated(self._http.base_url), ExitStack() as unless_kept:
                    response = self._http.send(built, stream=True)
                    unless_kept.callback(response.close)
                    if response.is_error or whole:
                        response.read()
                    if error := error_in(response):
                        raise error
                    unless_kept.pop_all()
                return response
        raise AssertionError("the last attempt returns or raises")

    def _follow(self, feed: EventFeed) -> Generator[Any, None, None]:
        retries: int | None = self._retries
        while True:
            response = self._send(feed.request(), retries=retries)
            with closing(response), suppress(Unreachable), translated(self._http.base_url):
                for event in EventSource(response).iter_sse():
                    if (found := feed.take(event)) is not None:
                        yield found
            retries = None
            time.sleep(streams.PAUSE)


class RunHandle:
    """A run that goes on by itself."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def status(self) -> Run:
        """How it is now, its place in the queue and its progress included."""
        return self._client._do(operations.run(self.run_id))  # noqa: SLF001 - one package

    def wait(self, timeout: float | None = None) -> Run:
        """The run once it has ended, however it did; after `timeout` seconds as it is then."""
        return self._client._do(operations.wait(self.run_id, timeout))  # noqa: SLF001

    def result(self, timeout: float | None = None) -> Any:
        """The tool's result once there is one; raises what `Client.run` would have, and `RunNotFinished` after
        `timeout` seconds.
        """
        return self.envelope(timeout)["result"]

    def envelope(self, timeout: float | None = None) -> Envelope:
        """As `result`, with the run's time."""
        return self._client._do(operations.result(self.run_id, timeout))  # noqa: SLF001

    def cancel(self) -> Run:
        """Ask for its end; it may take a moment."""
        return self._client._do(operations.cancel(self.run_id))  # noqa: SLF001
