"""The composition root: the only module that knows every other."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from plugin_runtime import __version__
from starlette.routing import Route

from orchestrator import dashboard, deployment
from orchestrator.api import (
    events_router,
    health_router,
    host_router,
    plugins_router,
    problems,
    run_router,
    runs_router,
    system_router,
    update_router,
    webhooks_router,
)
from orchestrator.api.body import UploadPace
from orchestrator.api.context import ApiContext
from orchestrator.api.event_feed import EventFeed
from orchestrator.api.hot_routes import HotRoutes
from orchestrator.api.middleware import guarded
from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import ImageStatus
from orchestrator.gpus import GpuHost
from orchestrator.loader.build_settings import BUILD_VARIABLES, ca_bundle
from orchestrator.loader.dependency_checker import DependencyChecker
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.loader.plugin_secrets import SecretSource
from orchestrator.mcp import endpoint
from orchestrator.mcp.endpoint import McpEndpoint
from orchestrator.models.store import model_store
from orchestrator.registry import PluginRegistry
from orchestrator.registry.history import HistoryStore
from orchestrator.sandbox.sandbox_runner import PluginSandboxRunner
from orchestrator.settings import Settings
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.drain_mark import DrainMark
from orchestrator.supervisor.fleet import Fleet
from orchestrator.supervisor.gpu_allocator import GpuAllocator
from orchestrator.supervisor.release_store import ReleaseStore
from orchestrator.telemetry.logs import within_run
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.observers import together, tracing
from orchestrator.tools.call_store import CallStore
from orchestrator.tools.result_store import ResultStore
from orchestrator.tools.shutdown import Shutdown
from orchestrator.tools.tool_runner import ToolRunner
from orchestrator.webhooks.config import load_webhooks
from orchestrator.webhooks.service import WebhookService

_RESTORED_EVENTS: Final = 1000  # events from before the start that are held in memory; the history has more

_log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    *,
    engine: ContainerEngine | None = None,
    gpu_host: GpuHost | None = None,
    stop_plugins: bool = False,
    stop: asyncio.Event | None = None,
) -> FastAPI:
    """The orchestrator as an ASGI application. Without `engine` it uses Docker, without `gpu_host` this host.

    `stop_plugins`: a shutdown removes the plugins' containers, instead of leaving them for the next start. `stop`, once
    set, ends a start that is still under way. Raises `KeyFileError` where the API keys cannot be read,
    `WebhooksFileError` where the webhooks cannot.
    """
    webhooks = WebhookService(load_webhooks(settings.webhooks), ca_bundle=ca_bundle(settings, os.environ))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # First: from here on no other orchestrator uses this state folder.
        claimed = deployment.claim(settings)
        metrics, traces = Metrics(), tracing(os.environ)
        containers = metrics.observe_engine(engine or docker_engine(settings))
        history = HistoryStore(
            settings.state_dir,
            max_age=settings.history_max_age,
            max_bytes=int(settings.history_max_bytes),
            outbox=webhooks.outbox,
        )
        results = ResultStore(
            settings.state_dir / "results",
            max_age=settings.results_max_age.total_seconds(),
            max_bytes=int(settings.results_max_bytes),
        )
        try:
            restored = await history.restore()
            results.open()
            await webhooks.open(history)
            registry = PluginRegistry(restored=restored, events=await history.latest_events(_RESTORED_EVENTS))
            # Before the fleet, whose registration of each plugin is an event.
            registry.subscribe(history.event)
            sandbox = PluginSandboxRunner(
                max_result=int(settings.max_result), reader_idle=settings.upload_idle_timeout.total_seconds()
            )
            deps = _supervisor_deps(
                settings, containers, claimed, registry=registry, history=history, sandbox=sandbox, gpu_host=gpu_host
            )
            fleet = Fleet(deps)
            # In this order: the log takes its trace id from the call, where the traces have put it.
            observe = together(*([traces.watch] if traces else []), within_run, metrics.observe_runs(registry).watch)
            runner = ToolRunner(
                registry,
                fleet.get,
                sandbox,
                history=history,
                results=results,
                calls=CallStore(settings.state_dir / "waiting"),
                cancel_grace=settings.cancel_grace.total_seconds(),
                observe=observe,
            )
            shutdown = Shutdown(runner, fleet, history, settings, stop_plugins=stop_plugins)
            feed = EventFeed(registry, max_readers=settings.event_readers)
            _observe(metrics, registry, fleet, feed, history)
            app.state.context = ApiContext(
                registry=registry,
                fleet=fleet,
                tool_runner=runner,
                pace=UploadPace(settings.upload_idle_timeout.total_seconds(), int(settings.upload_min_rate)),
                spool=settings.state_dir / "spool",
                feed=feed,
                metrics=metrics,
                history=history,
                shutdown=shutdown,
                drain_mark=DrainMark(settings.state_dir),
                webhooks=webhooks,
            )
            _warn_of_folders(deps.loader)
            # The fleet first: runs of an earlier orchestrator are found in the containers that it adopts.
            try:
                await _unless(stop, fleet.open(restored.ended))
                await runner.resume(restored.asynchronous, fleet.adopted())
                fleet.settle_adopted()
                fleet.restart_changed()
                mcp.open(app.state.context)
                with feed.running():
                    yield
            finally:
                await shutdown.complete()
                await mcp.close()
        finally:
            if traces is not None:
                await traces.close()
            await webhooks.close()
            await history.close()
            await containers.close()
            # Last: the next orchestrator must find all of this closed.
            claimed.lock.release()

    mcp = McpEndpoint(max_sessions=settings.mcp_sessions)
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs-assets",
        title="Plugin orchestrator",
        description="Runs each plugin in its own container and reports the health of every one.",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        swagger_ui_parameters={"persistAuthorization": True},
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours follows runs
    )
    system_router.document_api_keys(app)
    _add_routes(app, mcp)
    # Before all of the framework's own.
    app.middleware_stack = guarded(HotRoutes(app.build_middleware_stack(), root=settings.root_path), settings)
    return app


async def _unless(stop: asyncio.Event | None, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, or break it off once `stop` is set."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
    if not working.cancelled():
        working.result()


def _add_routes(app: FastAPI, mcp: McpEndpoint) -> None:
    for module in (
        health_router,
        plugins_router,
        update_router,
        events_router,
        run_router,
        runs_router,
        host_router,
        system_router,
        webhooks_router,
    ):
        app.include_router(module.router)
    app.include_router(dashboard.router)
    app.mount("/assets", dashboard.assets)
    app.router.routes.append(Route(endpoint.PATH, mcp, include_in_schema=False))
    problems.install(app)


def _observe(metrics: Metrics, registry: PluginRegistry, fleet: Fleet, feed: EventFeed, history: HistoryStore) -> None:
    metrics.observe_plugins(registry, fleet.gpus)
    metrics.observe_readers(lambda: feed.readers)
    metrics.observe_history(history)


def _warn_of_folders(loader: PluginLoader) -> None:
    for folder, problem in loader.unusable_directories().items():
        _log.warning("the plugin folder %s cannot be used (%s); see ORCHESTRATOR_PLUGINS_DIRS", folder, problem)


def secret_source(settings: Settings) -> SecretSource:
    if settings.secrets_dir is not None:
        return SecretSource(settings.secrets_dir, os.environ)
    return SecretSource(settings.state_dir / "secrets", os.environ, "secrets/", "ORCHESTRATOR_STATE_DIR")


def dependency_checker(settings: Settings) -> DependencyChecker:
    """The host's checks of models and secrets, by the settings."""
    return DependencyChecker(settings.models_dir, secret_source(settings), model_store(settings))


def docker_engine(settings: Settings) -> DockerEngine:
    """The Docker Engine of the host's environment; not connected yet."""
    return DockerEngine.from_environment(
        os.environ, timeout=settings.engine_timeout.total_seconds(), labels=settings.container_labels
    )


def image_builder(
    settings: Settings, engine: ContainerEngine, in_use: Callable[[str], Collection[str]] = lambda _: ()
) -> ImageBuilder:
    """The image builder by the settings and the host's environment. `in_use`: ids of a plugin's images that stay."""
    return ImageBuilder(
        engine,
        in_use=in_use,
        images_dir=images_dir(),
        logs_dir=settings.state_dir / "builds",
        ca_bundle=ca_bundle(settings, os.environ),
        build_settings={name: os.environ[name] for name in BUILD_VARIABLES if os.environ.get(name)},
        python_image=settings.python_image,
    )


async def own_image(settings: Settings) -> ImageStatus:
    """The orchestrator's own image, built where it is out of date. Raises `BuildError`, or another `EngineError`."""
    engine = docker_engine(settings)
    try:
        return await image_builder(settings, engine).ensure_own()
    finally:
        await engine.close()


async def testing_image(settings: Settings) -> ImageStatus:
    """As `own_image`: the image for tests of other projects, which has `orchestrator.simulation`."""
    engine = docker_engine(settings)
    try:
        return await image_builder(settings, engine).ensure_testing()
    finally:
        await engine.close()


def images_dir() -> Path:
    """The folder of the base images and the runtime: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    beside = package.parent / "plugin-images"
    return beside if beside.is_dir() else package / "_plugin_images"


def _supervisor_deps(
    settings: Settings,
    engine: ContainerEngine,
    claimed: deployment.Deployment,
    *,
    registry: PluginRegistry,
    history: HistoryStore,
    sandbox: PluginSandboxRunner,
    gpu_host: GpuHost | None,
) -> SupervisorDeps:
    releases = ReleaseStore(settings.state_dir / "releases")
    releases.load()
    return SupervisorDeps(
        settings=settings,
        engine=engine,
        registry=registry,
        loader=PluginLoader(settings.plugins_dirs),
        checker=dependency_checker(settings),
        builder=image_builder(settings, engine, in_use=releases.images),
        gpus=GpuAllocator(
            gpu_host or GpuHost.bounded(settings.gpu_first_look.total_seconds()),
            engine,
            forced_driver=None if settings.gpu_driver == "auto" else settings.gpu_driver,
            groups=settings.gpu_groups,
        ),
        history=history,
        releases=releases,
        sandbox=sandbox,
        deployment=claimed.id,
        run_dir=claimed.run_dir,
    )
