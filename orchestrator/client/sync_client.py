"""The blocking client."""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from typing import Any, Literal, Self

import httpx
from httpx_sse import EventSource

from orchestrator.client import operations, streams
from orchestrator.client.arguments import body_options
from orchestrator.client.downloads import Download
from orchestrator.client.errors import ApiError, Unreachable
from orchestrator.client.files import FilesOf, ResultFile
from orchestrator.client.models import (
    AskedStrategy,
    Delivery,
    DeliveryState,
    Drained,
    Envelope,
    Gpus,
    Host,
    LifecycleEvent,
    Plugin,
    PluginDetail,
    PluginPlacement,
    Run,
    StreamEvent,
    Tool,
    Update,
    Webhook,
    WebhookTest,
)
from orchestrator.client.operations import Flow, T
from orchestrator.client.streams import EventFeed, Lines, RunEvents
from orchestrator.client.transport import (
    Request,
    Retries,
    answer_of,
    connection_options,
    error_in,
    head_of,
    preparing,
    refuse_if_closed,
    request_options,
    translated,
)


class Client:
    """A client of one orchestrator. Every method raises `ApiError` or a subclass. Threads may share one.

    Retried are reads whose connection failed or that only a proxy answered, and runs that the orchestrator did not
    start (429, 503 with Retry-After); nothing else.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        retry_idempotent: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`base_url` is by default ORCHESTRATOR_URL, else http://127.0.0.1:8000; `api_key` ORCHESTRATOR_API_KEY.

        `retry_idempotent`: the orchestrator makes a run of an idempotent tool once more where its instance dies.
        """
        with preparing():  # certificates and proxies that the environment names may be none
            options = connection_options(base_url, api_key)
            self._http = httpx.Client(**options, transport=transport)
        self._retries = retries
        self._retry_idempotent = retry_idempotent
        self._files = FilesOf(lambda reference: ResultFile(reference, self))

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
        """All plugins, including failed ones."""
        return self._do(operations.plugins())

    def health(self, plugin: str) -> PluginDetail:
        """One plugin, with the post-mortem of an instance that ended."""
        return self._do(operations.health(plugin))

    def tools(self, plugin: str) -> list[Tool]:
        """The plugin's tools with their JSON Schemas."""
        return self._do(operations.tools(plugin))

    def gpus(self) -> Gpus:
        """The host's GPUs, their state, and the plugins that hold them."""
        return self._do(operations.gpus())

    def release_gpu(self, uuid: str) -> Gpus:
        """Take a GPU out of quarantine, whatever memory is in use on it; all GPUs afterwards."""
        return self._do(operations.release_gpu(uuid))

    def hosts(self) -> list[Host]:
        """The hosts behind a front. Without one there is no such route."""
        return self._do(operations.hosts())

    def drain_host(self, host: str) -> Drained:
        """Have nothing new on a host, and move what serves there to others; what fits nowhere else stays."""
        return self._do(operations.host_command(host, "drain"))

    def resume_host(self, host: str) -> Drained:
        """Let a drained host have new plugins again. What was moved away stays where it is."""
        return self._do(operations.host_command(host, "resume"))

    def forget_host(self, host: str) -> dict[str, Any]:
        """Take a host that does not answer off the front's list, until the front is started anew."""
        return self._do(operations.forget_host(host))

    def move(self, plugin: str, to: str, *, source: str | None = None, force: bool = False) -> PluginDetail:
        """Move a plugin to another host: it serves there before it ends on `source`, which need not be named where it
        serves on one host alone. `force`: from a host that does not answer, which ends its own when it is back.
        """
        return self._do(operations.move(plugin, to, source, force=force))

    def placement(self, plugin: str) -> PluginPlacement:
        """Each host of a front, and the rule by which it was accepted or refused for this plugin."""
        return self._do(operations.placement(plugin))

    def webhooks(self) -> list[Webhook]:
        """The webhooks of the operator's file."""
        return self._do(operations.webhooks())

    def webhook_deliveries(
        self, webhook: str, *, state: DeliveryState | None = None, limit: int = 100, before: int | None = None
    ) -> list[Delivery]:
        """Deliveries of a webhook, newest first. `before`: only those with a smaller `id`."""
        return self._do(operations.webhook_deliveries(webhook, state, limit, before))

    def repeat_delivery(self, webhook: str, delivery_id: str) -> Delivery:
        """Deliver a message that was delivered, or given up, once more; the new delivery. Raises `CommandRefused`."""
        return self._do(operations.repeat_delivery(webhook, delivery_id))

    def test_webhook(self, webhook: str) -> WebhookTest:
        """Send a test message at once. One that fails is no error here: see `ok` and `error`."""
        return self._do(operations.test_webhook(webhook))

    def restart(
        self,
        plugin: str,
        *,
        wait: float = 120.0,
        only: Literal["failed"] | None = None,
        on_wait: Callable[[PluginDetail], object] | None = None,
    ) -> PluginDetail:
        """Replace the instances; the plugin once the new ones are ready or have failed, or after `wait` seconds.

        With `only="failed"` those that serve go on, and new ones start in place of those that ended.

        `on_wait` is called with the plugin about once a second until then: its `activity` and `reason` say what goes
        on. Raises `RestartRefused` where there can be no new instance: then the old one goes on.
        """
        return self._do(operations.command(plugin, "restart", wait, on_wait, only=only))

    def start(
        self, plugin: str, *, wait: float = 120.0, on_wait: Callable[[PluginDetail], object] | None = None
    ) -> PluginDetail:
        """Start the instances that are missing; see `restart`."""
        return self._do(operations.command(plugin, "start", wait, on_wait))

    def scale(
        self,
        plugin: str,
        replicas: int,
        *,
        wait: float = 120.0,
        on_wait: Callable[[PluginDetail], object] | None = None,
    ) -> PluginDetail:
        """Set how many instances the plugin has at a time, in place of its manifest's number; see `restart`."""
        return self._do(operations.command(plugin, "scale", wait, on_wait, body={"replicas": replicas}))

    def update(
        self,
        plugin: str,
        strategy: AskedStrategy = "auto",
        *,
        wait: float = 600.0,
        on_wait: Callable[[Update, PluginDetail], object] | None = None,
    ) -> Update:
        """Bring up the plugin as its folder has it now, without a gap; the update once it has ended, or after `wait`
        seconds. One that was REJECTED is no error here: its `reason_code` says why, and the plugin is what it was.

        `on_wait` is called with the update and the plugin at once, and about once a second until its end. Raises
        `UpdateUnderWay`.
        """
        return self._do(operations.update(plugin, strategy, wait, on_wait))

    def revert(
        self, plugin: str, *, wait: float = 600.0, on_wait: Callable[[Update, PluginDetail], object] | None = None
    ) -> Update:
        """Go back to the former release, which stays until the next update; see `update`. Raises `NothingToRevert`."""
        return self._do(operations.revert(plugin, wait, on_wait))

    def updates(self, plugin: str) -> list[Update]:
        """The last updates and reverts, the newest first."""
        return self._do(operations.updates(plugin))

    def park(self, plugin: str) -> PluginDetail:
        """Stop all instances until the next run, which starts new ones. Raises `NotParked`."""
        return self._do(operations.command(plugin, "park", 0))

    def stop(self, plugin: str) -> PluginDetail:
        """Stop all instances; returns once their containers are removed."""
        return self._do(operations.command(plugin, "stop", 0))

    def run(self, plugin: str, tool: str, /, **arguments: Any) -> Any:
        """The tool's result. Bytes, paths, file objects and `Upload` are sent as files, streamed from disk.

        A file in the result is a `ResultFile`, to read or save.
        """
        return self.call(plugin, tool, **arguments)["result"]

    def call(self, plugin: str, tool: str, /, **arguments: Any) -> Envelope:
        """Like `run`, with the run's id and duration."""
        return self._files.envelope(self._do(operations.call(plugin, tool, arguments, retry=self._retry_idempotent)))

    def stream(self, plugin: str, tool: str, /, **arguments: Any) -> Generator[StreamEvent, None, None]:
        """The run's events as they arrive: `Begun`, any number of `Item` and `Progress`, `End`.

        Closing it cancels the run: a streaming tool is stopped at its next event.
        """
        request = operations.stream_request(plugin, tool, arguments, retry=self._retry_idempotent)
        with closing(self._send(request, retries=self._retries)) as response:
            events = RunEvents(response.headers.get("content-type", ""), response.headers.get("x-run-id", ""))
            yield events.first()
            with translated(self._http.base_url):
                if not events.streams:
                    response.read()
                    yield self._files.event(events.whole(answer_of(response)), events.run_id)
                    return
                for chunk in response.iter_bytes():
                    for event in events.feed(chunk):
                        yield self._files.event(event, events.run_id)
                events.finish()

    def run_async(self, plugin: str, tool: str, /, **arguments: Any) -> "RunHandle":
        """Start an asynchronous run: it continues whether or not anyone waits for it."""
        return RunHandle(
            self, self._do(operations.start_run(plugin, tool, arguments, retry=self._retry_idempotent))["run_id"]
        )

    def handle(self, run_id: str) -> "RunHandle":
        """A run that was started elsewhere."""
        return RunHandle(self, run_id)

    def runs(
        self, plugin: str | None = None, *, state: str | None = None, limit: int = 100, before: int | str | None = None
    ) -> list[Run]:
        """Runs, newest first. `before`: only runs with a smaller `id`."""
        return self._do(operations.runs(plugin, state, limit, before))

    def events(
        self, plugin: str | None = None, *, after: int | str | None = None, limit: int = 100, follow: bool = False
    ) -> Generator[LifecycleEvent, None, None]:
        """State changes, oldest first: the newest `limit`, or the next ones after the id `after`.

        With `follow`, then each as it happens, without end; it resumes after a broken connection.
        """
        past = self._do(operations.events(plugin, after, limit))
        yield from past
        if follow:
            last = operations.position(past, after)
            yield from self._follow(EventFeed(operations.events_path(plugin), kind="lifecycle", after=last))

    def watch(self) -> Generator[Plugin, None, None]:
        """Every plugin now, then each that changed or was `removed`, without end."""
        yield from self._follow(EventFeed("/v1/events", kind="health"))

    def logs(
        self,
        plugin: str,
        *,
        tail: int = 100,
        follow: bool = False,
        build: bool = False,
        generation: int | Literal["all"] | None = None,
    ) -> Generator[str, None, None]:
        """The container's log, line by line; with `follow` that of the next instances too, without end. With `build`
        the output of the last build of its image instead, which is not followed. Of several instances the newest's, or
        that of `generation`, or of `all`, each line with its instance in brackets after the time.

        A line that begins with `--- ` is none of a container: it says that an instance is awaited, ended or is next.
        """
        request = operations.logs_request(plugin, tail, follow=follow, build=build, generation=generation)
        with closing(self._send(request, retries=self._retries)) as response:
            head_of(response).expect_text()
            lines = Lines(skip_empty=follow)
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
                except Exception as error:  # noqa: BLE001 - the operation decides; most raise it again
                    request = flow.throw(error)
                else:
                    request = flow.send(answer_of(response))
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request, *, whole: bool = False, retries: int | None) -> httpx.Response:
        """Send a request, again if that is safe; the response's head, or with `whole` all of it. Raises `ApiError`."""
        if request.delay:
            time.sleep(request.delay)
        again = Retries(request, retries)
        while True:
            try:
                return self._attempt(request, whole=whole)
            except ApiError as error:
                if (pause := again.pause_after(error)) is None:
                    raise
            time.sleep(pause)

    def _attempt(self, request: Request, *, whole: bool) -> httpx.Response:
        refuse_if_closed(self._http)
        with ExitStack() as files, ExitStack() as on_error:
            with preparing():
                options = request_options(request) | body_options(request.arguments, files)
                built = self._http.build_request(request.method, request.path, **options)
            with translated(self._http.base_url):
                response = self._http.send(built, stream=True)
                on_error.callback(response.close)
                if whole or not response.is_success:
                    response.read()
                if error := error_in(response):
                    raise error
            on_error.pop_all()  # from here on the caller closes the response
            return response

    def _download(self, download: Download) -> None:
        while (request := download.next()) is not None:
            with (
                download.attempt(),
                closing(self._send(request, retries=self._retries)) as response,
                translated(self._http.base_url),
            ):
                download.begin(response.status_code, response.headers)
                for chunk in response.iter_bytes():
                    download.feed(chunk)

    def _follow(self, feed: EventFeed) -> Generator[Any, None, None]:
        retries: int | None = self._retries
        while True:
            response = self._send(feed.request(), retries=retries)
            with closing(response), suppress(Unreachable), translated(self._http.base_url):
                for event in EventSource(response).iter_sse():
                    if (found := feed.take(event)) is not None:
                        yield found
            retries = None  # once connected, it reconnects without limit
            time.sleep(streams.PAUSE)


class RunHandle:
    """An asynchronous run."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def status(self) -> Run:
        """The run now, with its position in the queue and its progress."""
        return self._client._do(operations.run(self.run_id))  # noqa: SLF001 - one package

    def wait(self, timeout: float | None = None) -> Run:
        """The run once it has ended in whatever way, or after `timeout` seconds."""
        return self._client._do(operations.wait(self.run_id, timeout))  # noqa: SLF001

    def result(self, timeout: float | None = None) -> Any:
        """The tool's result once the run has ended.

        Raises what `Client.run` raises, and `RunNotFinished` after `timeout` seconds.
        """
        return self.envelope(timeout)["result"]

    def envelope(self, timeout: float | None = None) -> Envelope:
        """Like `result`, with the run's duration."""
        found = self._client._do(operations.result(self.run_id, timeout))  # noqa: SLF001
        return self._client._files.envelope(found)  # noqa: SLF001

    def cancel(self) -> Run:
        """Request cancellation; the run may end a moment later."""
        return self._client._do(operations.cancel(self.run_id))  # noqa: SLF001
