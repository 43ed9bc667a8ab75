"""`front`: one API over the orchestrators of several hosts."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.server import Server, StopSignals, exit_with
from orchestrator.cli.settings import read_settings
from orchestrator.front.front_app import create_front
from orchestrator.front.hosts_file import HostsFileError, read_hosts_file
from orchestrator.telemetry import logs
from orchestrator.tools.shutdown import EXIT_SECONDS, TRANSFER_SECONDS


def front(
    hosts: Annotated[
        Path,
        typer.Option(
            envvar="ORCHESTRATOR_HOSTS",
            help="A list of hosts: each has name and address, and may have key_file, ca_file and labels.",
        ),
    ] = Path("hosts.yaml"),
) -> None:
    """Run a front in the foreground until SIGTERM: one API over the orchestrators of all hosts."""
    signals = StopSignals()
    settings = read_settings()
    logs.configure(settings.log_level, settings.log_format)
    longest = settings.drain.total_seconds() + TRANSFER_SECONDS + EXIT_SECONDS
    server = Server(settings, signals, longest_stop=longest)
    try:
        app = create_front(settings, read_hosts_file(hosts).hosts, hosts_file=hosts)
    except HostsFileError as error:
        exit_with(str(error))
    server.run(app, lambda: app.state.shutdown)
