"""`serve`: runs the orchestrator in the foreground."""

import logging
from collections.abc import Callable
from typing import Annotated, Final

import typer
from fastapi import FastAPI

from orchestrator.app import create_app
from orchestrator.cli.server import Server, StopSignals, exit_with
from orchestrator.cli.settings import read_settings
from orchestrator.deployment import StateFolderError, claim
from orchestrator.run_folder import logout_warning
from orchestrator.telemetry import logs
from orchestrator.tools.shutdown import longest_stop
from orchestrator.webhooks.config import WebhooksFileError

_log: Final = logging.getLogger(__name__)


def serve(
    *, stop_plugins: Annotated[bool, typer.Option(help="On SIGTERM also stop the plugins' containers.")] = False
) -> None:
    """Run the orchestrator in the foreground until SIGTERM."""
    run_server(create_app, stop_plugins=stop_plugins)


def run_server(make_app: Callable[..., FastAPI], *, stop_plugins: bool) -> None:
    """Serve what `make_app` makes of the settings, `stop_plugins` and `stop`, as `create_app` does, until SIGTERM."""
    signals = StopSignals()
    settings = read_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        claim(settings).lock.release()  # a second orchestrator ends here with one line, before the server starts
    except StateFolderError as error:
        exit_with(str(error))
    server = Server(settings, signals, longest_stop=longest_stop(settings))
    if (problem := logout_warning(settings.run_dir)) is not None:
        _log.warning("%s", problem)
    try:
        app = make_app(settings, stop_plugins=stop_plugins, stop=signals.first)
    except WebhooksFileError as error:
        exit_with(str(error))
    server.run(app, lambda: app.state.context.shutdown)
