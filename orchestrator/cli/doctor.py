"""`doctor`: examines everything that the orchestrator needs. `doctor_findings` judges what is seen here."""

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.table import Table
from rich.text import Text

from orchestrator import run_folder
from orchestrator.access.hosts import is_loopback
from orchestrator.access.key_store import KeyFileError, configured_keys
from orchestrator.app import dependency_checker, docker_engine
from orchestrator.audit.findings import Finding, Level, error, ok, warning
from orchestrator.cli import doctor_findings, doctor_gpus
from orchestrator.cli.connection import address, credentials
from orchestrator.cli.console import EXIT_FAILED, AsJson, console, show_json
from orchestrator.cli.doctor_gpus import GpuFacts, GpuNeed
from orchestrator.cli.settings import read_settings
from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import EngineInfo
from orchestrator.errors import EngineAddressError, EngineError, EngineUnreachableError, NotFoundError
from orchestrator.gpus import GpuHost
from orchestrator.gpus.evidence import read_node_access
from orchestrator.loader.build_settings import ca_bundle, masked
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.registry import EffectiveLimits
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.gpu_allocator import engine_gpus, gpu_demand, same_groups
from orchestrator.webhooks.config import WebhooksFileError, load_webhooks

_SIGNS: Final = {Level.OK: ("ok", "green"), Level.WARNING: ("note", "yellow"), Level.ERROR: ("FAIL", "bold red")}


def doctor(
    *,
    with_settings: Annotated[bool, typer.Option("--settings/--no-settings", help="Show all settings.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check the engine, folders, disk, GPUs, keys and settings. Exit code 1 if something is wrong."""
    settings = read_settings()
    findings = asyncio.run(examine(settings))
    values = {f"ORCHESTRATOR_{name.upper()}": doctor_findings.shown(name, value) for name, value in settings}
    if as_json:
        show_json({"findings": [asdict(finding) for finding in findings], "settings": values})
    else:
        console.print(_table(findings))
        if with_settings:
            console.print(_settings_table(values))
    if any(finding.level is Level.ERROR for finding in findings):
        raise typer.Exit(EXIT_FAILED)


async def examine(settings: Settings) -> list[Finding]:
    """All findings. Creates missing folders; changes nothing else."""
    loader = PluginLoader(settings.plugins_dirs)
    found = await asyncio.to_thread(loader.discover)
    limits = {plugin.name: effective_limits(plugin.manifest, settings) for plugin in found if plugin.manifest}
    findings, info, shared = await _engine(settings, limits)
    return [
        *findings,
        *_folders(settings, info),
        *doctor_findings.plugins(found, loader.unusable_directories()),
        doctor_findings.memory_sum(info.memory if info else 0, _memory_of_all(found, limits)),
        *await asyncio.to_thread(lambda: list(_dependencies(settings, found))),
        *await _gpus(settings, info, found, local=shared),
        _keys(settings),
        *_webhooks(settings),
        await asyncio.to_thread(_running),
        *doctor_findings.network(os.environ, ca_bundle(settings, os.environ)),
    ]


def _memory_of_all(found: Iterable[DiscoveredPlugin], limits: Mapping[str, EffectiveLimits]) -> dict[str, int]:
    """Plugin → bytes that its instances may use together."""
    replicas = {plugin.name: plugin.manifest.replicas for plugin in found if plugin.manifest}
    return {name: each.memory * replicas[name] for name, each in limits.items()}


async def _engine(
    settings: Settings, limits: Mapping[str, EffectiveLimits]
) -> tuple[list[Finding], EngineInfo | None, bool]:
    """What is found of the engine; its description, if it gives one; whether it shares sockets."""
    engine = docker_engine(settings)
    findings: list[Finding] = []
    try:
        findings.append(ok("engine", "address", masked(engine.address)))
        refused = await engine.refused_permissions()
        findings.append(doctor_findings.permissions(refused, engine.needed_permissions))
        info = await engine.info()
        held = "cpus" not in settings.allow_unlimited
        limited = [name for name, each in limits.items() if each.cpus is not None and held]
        shared = await engine.shares_sockets()
        findings += [
            *doctor_findings.engine(info, limited, settings.allow_unlimited),
            doctor_findings.channel(settings.channel, shared=shared),
            await _base_image(engine, settings),
        ]
    except EngineAddressError as problem:
        return [error("engine", "address", str(problem))], None, False
    except EngineUnreachableError as problem:
        return [*findings, doctor_findings.unreachable(str(problem), _other_sockets(engine.address))], None, False
    except EngineError as problem:
        return [*findings, error("engine", "answers", str(problem))], None, False
    finally:
        await engine.close()
    return findings, info, shared


def _other_sockets(used: str) -> list[Path]:
    """Sockets of engines at their usual places that this user may use, besides the one in use."""
    runtime, home = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"), Path.home()
    places = (
        runtime / "docker.sock",
        runtime / "podman" / "podman.sock",
        Path("/run/podman/podman.sock"),
        home / ".docker" / "desktop" / "docker.sock",
        home / ".docker" / "run" / "docker.sock",
        home / ".colima" / "default" / "docker.sock",
    )
    return [path for path in places if f"unix://{path} " not in used and path.is_socket() and os.access(path, os.W_OK)]


async def _base_image(engine: ContainerEngine, settings: Settings) -> Finding:
    try:
        await engine.image(settings.python_image)
    except NotFoundError:
        return warning(
            "engine",
            "base image",
            f"{settings.python_image} is missing: it is pulled when a plugin is built. `make base-image` builds it "
            "without a registry",
        )
    except EngineError as problem:
        return error("engine", "base image", str(problem))
    return ok("engine", "base image", settings.python_image)


def _folders(settings: Settings, info: EngineInfo | None) -> Iterable[Finding]:
    yield doctor_findings.folder("state", "ORCHESTRATOR_STATE_DIR", settings.state_dir, _unusable(settings.state_dir))
    yield doctor_findings.folder("sockets", "ORCHESTRATOR_RUN_DIR", settings.run_dir, _unusable(settings.run_dir))
    yield doctor_findings.run_folder_length(settings.run_dir)
    logout = doctor_findings.lingering(
        run_folder.logout_warning(settings.run_dir),
        rootless=info is not None and info.rootless,
        lingers=run_folder.lingers(),
    )
    if logout is not None:
        yield logout
    if settings.models_dir is not None:
        problem = None if settings.models_dir.is_dir() else "it does not exist"
        yield doctor_findings.folder("models", "ORCHESTRATOR_MODELS_DIR", settings.models_dir, problem)
    yield doctor_findings.disk_space("state", settings.state_dir, _free(settings.state_dir))
    if info is not None and info.data_dir:
        yield doctor_findings.disk_space("images", Path(info.data_dir), _free(Path(info.data_dir)))


def _dependencies(settings: Settings, found: Iterable[DiscoveredPlugin]) -> Iterable[Finding]:
    checker = dependency_checker(settings)
    for plugin in found:
        if plugin.manifest is not None:
            yield from doctor_findings.dependencies(plugin.name, checker.check(plugin.manifest, plugin.folder))


async def _gpus(
    settings: Settings, info: EngineInfo | None, found: Iterable[DiscoveredPlugin], *, local: bool
) -> Iterable[Finding]:
    manifests = [plugin.manifest for plugin in found if plugin.manifest is not None and plugin.manifest.requires_gpu]
    needs = [GpuNeed(each.name, gpu_demand(each), each.replicas) for each in manifests]
    facts = GpuFacts(
        await GpuHost.bounded(settings.gpu_first_look.total_seconds()).check(),
        engine_gpus(info) if info is not None else None,
        await asyncio.to_thread(read_node_access),
        None if settings.gpu_driver == "auto" else settings.gpu_driver,
        settings.gpu_groups,
        same_groups=info is not None and same_groups(info, local=local),
        reported=await asyncio.to_thread(_reported_gpus),
    )
    return doctor_gpus.gpus(facts, needs)


def _reported_gpus() -> Mapping[str, Any] | None:
    """What a running orchestrator has met; None where it does not say, or wants a key."""
    try:
        answer = httpx.get(f"{address()}/v1/gpus", headers=credentials(), timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return None
    engine = answer.get("engine") if isinstance(answer, dict) else None
    return engine if isinstance(engine, dict) else None


def _keys(settings: Settings) -> Finding:
    try:
        count = len(configured_keys(settings).load().keys)
    except KeyFileError as problem:
        return error("access", "API keys", str(problem))
    return doctor_findings.keys(count, loopback=is_loopback(settings.host))


def _webhooks(settings: Settings) -> Iterable[Finding]:
    if settings.webhooks is None:
        return
    try:
        names = ", ".join(webhook.name for webhook in load_webhooks(settings.webhooks))
    except WebhooksFileError as problem:
        yield error("access", "webhooks", str(problem))
    else:
        yield ok("access", "webhooks", f"{names}; `orchestrator hooks test NAME` sends one a message")


def _running() -> Finding:
    """Whether an orchestrator runs already; either is well."""
    try:
        answer = httpx.get(f"{address()}/healthz", timeout=5, trust_env=False)
        health = answer.json()
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return ok("orchestrator", "running", f"no: nothing answers at {address()}")
    except (httpx.HTTPError, ValueError):
        return error(
            "orchestrator", "running", f"another program answers at {address()}. Set ORCHESTRATOR_PORT to a free port"
        )
    problem = (health.get("history") or {}).get("problem") if isinstance(health, dict) else None
    if problem:
        return error("orchestrator", "history", str(problem))
    return ok("orchestrator", "running", f"yes, at {address()}")


def _unusable(path: Path) -> str | None:
    """Why nothing can be written to the folder; None if it can."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as problem:
        return f"it cannot be created: {problem.strerror}"
    return None if os.access(path, os.W_OK | os.X_OK) else "this user cannot write to it"


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _table(findings: Iterable[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for options in ({"no_wrap": True}, {"no_wrap": True}, {"overflow": "fold"}):
        table.add_column(**options)
    for finding in findings:
        word, style = _SIGNS[finding.level]
        table.add_row(Text(word, style), Text(f"{finding.subject}: {finding.check}"), Text(finding.sentence))
    return table


def _settings_table(values: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nSETTING", no_wrap=True)
    table.add_column("\nVALUE", overflow="fold")
    for name, value in values.items():
        from_environment = name in os.environ
        table.add_row(Text(name, "bold" if from_environment else ""), Text(value, "" if from_environment else "dim"))
    return table
