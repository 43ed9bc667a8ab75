"""`audit`: checks the plugin folders and, with --live, a running orchestrator."""

import asyncio
import json
from typing import Annotated, Final

import httpx
import typer
from rich.markup import escape

from orchestrator.app import docker_engine, image_builder
from orchestrator.audit.auditor import audit_folders, audit_licences, audit_running
from orchestrator.audit.findings import AuditReport, Finding, Level, error
from orchestrator.audit.live_checks import ORCHESTRATOR
from orchestrator.cli.connection import address, credentials
from orchestrator.cli.console import console
from orchestrator.cli.settings import read_settings
from orchestrator.deployment import read_identity
from orchestrator.settings import Settings

_SIGNS: Final = {Level.OK: "[green]ok[/]", Level.WARNING: "[yellow]warning[/]", Level.ERROR: "[red]error[/]"}
_TIMEOUT: Final = 30.0
"""Seconds for an answer of the API."""


def audit(
    *,
    live: Annotated[bool, typer.Option(help="Also check a running orchestrator against what it claims.")] = False,
    licences: Annotated[
        bool, typer.Option(help="Also check the licences in the plugins' images; needs the engine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show the checks that passed.")] = False,
) -> None:
    """Check the plugin folders and, with --live, a running orchestrator. Exit code 1 if there is an error."""
    report = asyncio.run(run_audit(read_settings(), live=live, licences=licences))
    print(json.dumps(report.as_json(), indent=2)) if as_json else _show(report, verbose=verbose)  # noqa: T201
    if not report.passed:
        raise typer.Exit(1)


async def run_audit(settings: Settings, *, live: bool, licences: bool) -> AuditReport:
    """The static checks, and the optional ones that were requested."""
    findings = await asyncio.to_thread(audit_folders, settings)
    if live or licences:
        engine = docker_engine(settings)
        try:
            if licences:
                findings += await audit_licences(settings, engine, image_builder(settings, engine))
            if live:
                async with _client() as client:
                    findings += await audit_running(client, engine, read_identity(settings))
        except httpx.HTTPError as problem:
            findings.append(_unreachable(problem))
        finally:
            await engine.close()
    return AuditReport.of(findings)


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address(), headers=credentials(), timeout=_TIMEOUT, trust_env=False)


def _unreachable(problem: httpx.HTTPError) -> Finding:
    sentence = f"The orchestrator at {address()} does not answer ({problem}). Start it, or set ORCHESTRATOR_URL."
    return error(ORCHESTRATOR, "reachable", sentence)


def _show(report: AuditReport, *, verbose: bool) -> None:
    for finding in report.findings:
        if verbose or finding.level is not Level.OK:
            where = f"[bold]{escape(finding.subject)}[/] {escape(finding.check)}"
            detail = f": {escape(finding.sentence)}" if finding.sentence else ""
            console.print(f"{_SIGNS[finding.level]} {where}{detail}", soft_wrap=True)
    counts = ", ".join(f"{report.count(level)} {level}" for level in Level)
    console.print(f"audit {'[green]passed[/]' if report.passed else '[red]failed[/]'}: {counts}")
