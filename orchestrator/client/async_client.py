"""The client for asyncio. Each method is documented at the method of `Client` with the same name."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, ExitStack, aclosing, suppress
from typing import Any, Literal, Self

import httpx
from httpx_sse import EventSource

from orchestrator.client import operations, streams
from orchestrator.client.arguments import body_options
from orchestrator.client.downloads import Download
from orchestrator.client.errors import ApiError, Unreachable
from orchestrator.client.files import AsyncResultFile, FilesOf
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


class AsyncClient:
    """A client of one orchestrator. Every method raises `ApiError` or a subclass. Use it on one event loop.

    It retries what `Client` retries. Uploads are read from disk in blocks of 64 KiB on the event loop.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        retry_idempotent: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`base_url` is by default ORCHESTRATOR_URL, else http://127.0.0.1:8000; `api_key` ORCHESTRATOR_API_KEY.

        `retry_idempotent`: the orchestrator makes a run of an idempotent tool once more where its instance dies.
        """
        with preparing():  # certificates and proxies that the environment names may be none
            options = connection_options(base_url, api_key)
            self._http = httpx.AsyncClient(**options, transport=transport)
        self._retries = retries
        self._retry_idempotent = retry_idempotent
        self._files = FilesOf(lambda reference: AsyncResultFile(reference, self))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    @property
    def address(self) -> str:
        return str(self._http.base_url).rstrip("/")

    async def plugins(self) -> list[Plugin]:
        return await self._do(operations.plugins())

    async def health(self, plugin: str) -> PluginDetail:
        return await self._do(operations.health(plugin))

    async def tools(self, plugin: str) -> list[Tool]:
        return await self._do(operations.tools(plugin))

    async def gpus(self) -> Gpus:
        return await self._do(operations.gpus())

    async def release_gpu(self, uuid: str) -> Gpus:
        return await self._do(operations.release_gpu(uuid))

    async def hosts(self) -> list[Host]:
        return await self._do(operations.hosts())

    async def drain_host(self, host: str) -> Drained:
        return await self._do(operations.host_command(host, "drain"))

    async def resume_host(self, host: str) -> Drained:
        return await self._do(operations.host_command(host, "resume"))

    async def forget_host(self, host: str) -> dict[str, Any]:
        return await self._do(operations.forget_host(host))

    async def move(self, plugin: str, to: str, *, source: str | None = None, force: bool = False) -> PluginDetail:
        return await self._do(operations.move(plugin, to, source, force=force))

    async def placement(self, plugin: str) -> PluginPlacement:
        return await self._do(operations.placement(plugin))

    async def webhooks(self) -> list[Webhook]:
        return await self._do(operations.webhooks())

    async def webhook_deliveries(
        self, webhook: str, *, state: DeliveryState | None = None, limit: int = 100, before: int | None = None
    ) -> list[Delivery]:
        return await self._do(operations.webhook_deliveries(webhook, state, limit, before))

    async def repeat_delivery(self, webhook: str, delivery_id: str) -> Delivery:
        return await self._do(operations.repeat_delivery(webhook, delivery_id))

    async def test_webhook(self, webhook: str) -> WebhookTest:
        return await self._do(operations.test_webhook(webhook))

    async def restart(
        self,
        plugin: str,
        *,
        wait: float = 120.0,
        only: Literal["failed"] | None = None,
        on_wait: Callable[[PluginDetail], object] | None = None,
    ) -> PluginDetail:
        return await self._do(operations.command(plugin, "restart", wait, on_wait, only=only))

    async def start(
        self, plugin: str, *, wait: float = 120.0, on_wait: Callable[[PluginDetail], object] | None = None
    ) -> PluginDetail:
        return await self._do(operations.command(plugin, "start", wait, on_wait))

    async def scale(
        self,
        plugin: str,
        replicas: int,
        *,
        wait: float = 120.0,
        on_wait: Callable[[PluginDetail], object] | None = None,
    ) -> PluginDetail:
        return await self._do(operations.command(plugin, "scale", wait, on_wait, body={"replicas": replicas}))

    async def update(
        self,
        plugin: str,
        strategy: AskedStrategy = "auto",
        *,
        wait: float = 600.0,
        on_wait: Callable[[Update, PluginDetail], object] | None = None,
    ) -> Update:
        return await self._do(operations.update(plugin, strategy, wait, on_wait))

    async def revert(
        self, plugin: str, *, wait: float = 600.0, on_wait: Callable[[Update, PluginDetail], object] | None = None
    ) -> Update:
        return await self._do(operations.revert(plugin, wait, on_wait))

    async def updates(self, plugin: str) -> list[Update]:
        return await self._do(operations.updates(plugin))

    async def park(self, plugin: str) -> PluginDetail:
        return await self._do(operations.command(plugin, "park", 0))

    async def stop(self, plugin: str) -> PluginDetail:
        return await self._do(operations.command(plugin, "stop", 0))

    async def run(self, plugin: str, tool: str, /, **arguments: Any) -> Any:
        return (await self.call(plugin, tool, **arguments))["result"]

    async def call(self, plugin: str, tool: str, /, **arguments: Any) -> Envelope:
        return self._files.envelope(
            await self._do(operations.call(plugin, tool, arguments, retry=self._retry_idempotent))
        )

    async def stream(self, plugin: str, tool: str, /, **arguments: Any) -> AsyncGenerator[StreamEvent, None]:
        request = operations.stream_request(plugin, tool, arguments, retry=self._retry_idempotent)
        async with aclosing(await self._send(request, retries=self._retries)) as response:
            events = RunEvents(response.headers.get("content-type", ""), response.headers.get("x-run-id", ""))
            yield events.first()
            with translated(self._http.base_url):
                if not events.streams:
                    await response.aread()
                    yield self._files.event(events.whole(answer_of(response)), events.run_id)
                    return
                async for chunk in response.aiter_bytes():
                    for event in events.feed(chunk):
                        yield self._files.event(event, events.run_id)
                events.finish()

    async def run_async(self, plugin: str, tool: str, /, **arguments: Any) -> "AsyncRunHandle":
        return AsyncRunHandle(
            self,
            (await self._do(operations.start_run(plugin, tool, arguments, retry=self._retry_idempotent)))["run_id"],
        )

    def handle(self, run_id: str) -> "AsyncRunHandle":
        return AsyncRunHandle(self, run_id)

    async def runs(
        self, plugin: str | None = None, *, state: str | None = None, limit: int = 100, before: int | str | None = None
    ) -> list[Run]:
        return await self._do(operations.runs(plugin, state, limit, before))

    async def events(
        self, plugin: str | None = None, *, after: int | str | None = None, limit: int = 100, follow: bool = False
    ) -> AsyncGenerator[LifecycleEvent, None]:
        past = await self._do(operations.events(plugin, after, limit))
        for event in past:
            yield event
        if not follow:
            return
        last = operations.position(past, after)
        feed = EventFeed(operations.events_path(plugin), kind="lifecycle", after=last)
        async with aclosing(self._follow(feed)) as found:
            async for event in found:
                yield event

    async def watch(self) -> AsyncGenerator[Plugin, None]:
        async with aclosing(self._follow(EventFeed("/v1/events", kind="health"))) as found:
            async for plugin in found:
                yield plugin

    async def logs(
        self,
        plugin: str,
        *,
        tail: int = 100,
        follow: bool = False,
        build: bool = False,
        generation: int | Literal["all"] | None = None,
    ) -> AsyncGenerator[str, None]:
        request = operations.logs_request(plugin, tail, follow=follow, build=build, generation=generation)
        async with aclosing(await self._send(request, retries=self._retries)) as response:
            head_of(response).expect_text()
            lines = Lines(skip_empty=follow)
            with translated(self._http.base_url):
                async for chunk in response.aiter_bytes():
                    for line in lines.feed(chunk):
                        yield line
                for line in lines.finish():
                    yield line

    async def _do(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                try:
                    response = await self._send(request, whole=True, retries=self._retries)
                except Exception as error:  # noqa: BLE001 - the operation decides; most raise it again
                    request = flow.throw(error)
                else:
                    request = flow.send(answer_of(response))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request, *, whole: bool = False, retries: int | None) -> httpx.Response:
        """Send a request, again if that is safe; the response's head, or with `whole` all of it. Raises `ApiError`."""
        if request.delay:
            await asyncio.sleep(request.delay)
        again = Retries(request, retries)
        while True:
            try:
                return await self._attempt(request, whole=whole)
            except ApiError as error:
                if (pause := again.pause_after(error)) is None:
                    raise
            await asyncio.sleep(pause)

    async def _attempt(self, request: Request, *, whole: bool) -> httpx.Response:
        refuse_if_closed(self._http)
        with ExitStack() as files:
            async with AsyncExitStack() as on_error:
                with preparing():
                    options = request_options(request) | body_options(request.arguments, files)
                    built = self._http.build_request(request.method, request.path, **options)
                with translated(self._http.base_url):
                    response = await self._http.send(built, stream=True)
                    on_error.push_async_callback(response.aclose)
                    if whole or not response.is_success:
                        await response.aread()
                    if error := error_in(response):
                        raise error
                on_error.pop_all()  # from here on the caller closes the response
                return response

    async def _download(self, download: Download) -> None:
        while (request := download.next()) is not None:
            with download.attempt():
                async with aclosing(await self._send(request, retries=self._retries)) as response:
                    with translated(self._http.base_url):
                        download.begin(response.status_code, response.headers)
                        async for chunk in response.aiter_bytes():
                            download.feed(chunk)

    async def _follow(self, feed: EventFeed) -> AsyncGenerator[Any, None]:
        retries: int | None = self._retries
        while True:
            async with aclosing(await self._send(feed.request(), retries=retries)) as response:
                with suppress(Unreachable), translated(self._http.base_url):
                    async for event in EventSource(response).aiter_sse():
                        if (found := feed.take(event)) is not None:
                            yield found
            retries = None  # once connected, it reconnects without limit
            await asyncio.sleep(streams.PAUSE)


class AsyncRunHandle:
    """An asynchronous run."""

    def __init__(self, client: AsyncClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    async def status(self) -> Run:
        return await self._client._do(operations.run(self.run_id))  # noqa: SLF001 - one package

    async def wait(self, timeout: float | None = None) -> Run:
        return await self._client._do(operations.wait(self.run_id, timeout))  # noqa: SLF001

    async def result(self, timeout: float | None = None) -> Any:
        return (await self.envelope(timeout))["result"]

    async def envelope(self, timeout: float | None = None) -> Envelope:
        found = await self._client._do(operations.result(self.run_id, timeout))  # noqa: SLF001
        return self._client._files.envelope(found)  # noqa: SLF001

    async def cancel(self) -> Run:
        return await self._client._do(operations.cancel(self.run_id))  # noqa: SLF001
