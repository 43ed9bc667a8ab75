"""Collects the checks' input from folders, the API and the engine, and runs the checks."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from orchestrator.audit.findings import Finding, error, ok, warning
from orchestrator.audit.live_checks import (
    LICENCE_PROGRAM,
    ORCHESTRATOR,
    Answer,
    check_isolation,
    check_licences,
    check_orphans,
    check_plugin,
    check_statuses,
    check_tools,
    no_container,
)
from orchestrator.audit.static_checks import check_folder
from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import UNPRIVILEGED_USER, ContainerSpec
from orchestrator.errors import BuildError, EngineError, NotFoundError
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.loader.image_recipe import PLUGIN_LABEL, ImageRecipe
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import LABEL_DEPLOYMENT, effective_limits, instances_of

_MAX_POLLS: Final = 200
_POLL_SECONDS: Final = 0.1
"""Twenty seconds for the program that lists the installed distributions."""
_MEMORY_BYTES: Final = 256 * 1024**2


def audit_folders(settings: Settings) -> list[Finding]:
    """The static checks of every plugin. Reads files; runs no code of a plugin."""
    loader = PluginLoader(settings.plugins_dirs)
    findings = [
        error(
            ORCHESTRATOR,
            "plugin folders",
            f"The folder {folder} cannot be used ({problem}); see ORCHESTRATOR_PLUGINS_DIRS.",
        )
        for folder, problem in loader.unusable_directories().items()
    ]
    for plugin in loader.discover():
        limits = effective_limits(plugin.manifest, settings) if plugin.manifest is not None else None
        findings += check_folder(plugin, limits)
    return findings


async def audit_licences(settings: Settings, engine: ContainerEngine, builder: ImageBuilder) -> list[Finding]:
    """The licences in the images of plugins. Images that are not built are not checked."""
    findings: list[Finding] = []
    for plugin in PluginLoader(settings.plugins_dirs).discover():
        if plugin.manifest is None:
            continue
        try:
            findings += await _licences(plugin, engine, builder)
        except NotFoundError:
            sentence = f"Its image is not built, so its licences are unknown: run `orchestrator build {plugin.name}`."
            findings.append(warning(plugin.name, "licences", sentence))
        except (EngineError, BuildError) as problem:
            findings.append(warning(plugin.name, "licences", f"Its licences could not be read: {problem}."))
    return findings


async def audit_running(client: httpx.AsyncClient, engine: ContainerEngine, deployment: str | None) -> list[Finding]:
    """A running orchestrator: its answers, and what the engine reports of its containers. Raises `httpx.HTTPError`.

    `deployment`: its id, None if unknown on this host; without it orphaned containers cannot be found.
    """
    answers: list[Answer] = []
    listed = await _get(client, "/v1/plugins", answers)
    findings: list[Finding] = []
    details = []
    for health in listed if isinstance(listed, list) else []:
        detail = await _get(client, f"/v1/plugins/{health['name']}/health", answers)
        if isinstance(detail, dict):
            details.append(detail)
            findings += check_plugin(health, detail)
        tools = await _get(client, f"/v1/plugins/{health['name']}/tools", answers)
        findings += check_tools(str(health["name"]), tools)
    for path in ("/v1/gpus", "/healthz"):
        await _get(client, path, answers)
    try:
        findings += await _isolation(engine, details)
        if deployment is None:
            sentence = "Its containers cannot be identified here: set ORCHESTRATOR_STATE_DIR to the orchestrator's."
            findings.append(warning(ORCHESTRATOR, "orphans", sentence))
        else:
            ours = instances_of(await engine.list({LABEL_DEPLOYMENT: deployment}))
            since = await _get(client, "/v1/plugins", answers)  # includes instances started meanwhile
            known = [*details, *(since if isinstance(since, list) else [])]
            ids = {found for health in known for found in _containers_in(health)}
            # A key may be for some plugins alone: what it does not see may be well.
            names = {str(health["name"]) for health in known} if "authorization" in client.headers else None
            hidden = [each.name for each in ours if names is not None and each.labels.get(PLUGIN_LABEL) not in names]
            seen = {container.name: container.id for container in ours if container.name not in hidden}
            findings += [*check_orphans(seen, ids), *(_hidden(name) for name in hidden)]
    except EngineError as problem:
        findings.append(warning(ORCHESTRATOR, "isolation", f"The container engine could not be queried: {problem}."))
    return [*check_statuses(answers), *findings]


async def _get(client: httpx.AsyncClient, path: str, answers: list[Answer]) -> Any:
    response = await client.get(path)
    content = response.json() if response.status_code == 200 else None
    answers.append(Answer(path, response.status_code, content))
    return content


async def _isolation(engine: ContainerEngine, details: Sequence[Mapping[str, Any]]) -> list[Finding]:
    findings: list[Finding] = []
    for health in details:
        containers = _containers_in(health)
        if not containers:
            findings.append(no_container(str(health["name"])))
        for container in containers:
            try:
                findings += check_isolation(health, await engine.isolation(container))
            except NotFoundError:  # it ended meanwhile and was removed
                findings.append(no_container(str(health["name"])))
    return findings


def _hidden(container: str) -> Finding:
    sentence = f"The container {container} belongs to no plugin that this key sees: audit with a key for all of them."
    return warning(ORCHESTRATOR, "orphans", sentence)


def _containers_in(health: Mapping[str, Any]) -> list[str]:
    """The ids of all its instances' containers, shortened."""
    parts = (health, health.get("candidate") or {}, *health.get("instances", ()))
    ids = ((part.get("container") or {}).get("id") for part in parts)
    return list(dict.fromkeys(str(found) for found in ids if found))


async def _licences(plugin: DiscoveredPlugin, engine: ContainerEngine, builder: ImageBuilder) -> list[Finding]:
    assert plugin.manifest is not None  # noqa: S101 - the caller skips those
    recipe = ImageRecipe.of(plugin.manifest, plugin.folder)
    if recipe.prebuilt:
        return [ok(plugin.name, "licences", "prebuilt")]
    image = await builder.newest(plugin.name)
    spec = ContainerSpec(
        name=f"audit-{plugin.name}-{image.id[-12:]}",
        image=image.id,
        labels={},
        environment={},
        memory=_MEMORY_BYTES,
        pids=32,
        user=UNPRIVILEGED_USER,
        entrypoint=("python", "-I"),
        command=("-c", LICENCE_PROGRAM),
    )
    container = await engine.create(spec)
    try:
        await engine.start(container)
        for _ in range(_MAX_POLLS):
            if (await engine.inspect(container)).state == "exited":
                break
            await asyncio.sleep(_POLL_SECONDS)
        lines = (await engine.logs(container, tail=1)).splitlines()
        output = lines[-1].partition(" ")[2] if lines else ""  # without its timestamp
        return check_licences(plugin.name, output)
    finally:
        await engine.remove(container)
