"""The steps from a manifest to a container whose control socket answers. Each that cannot be done raises with its
verdict.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.endpoint import UnixEndpoint, lay_out_token
from orchestrator.containers.spec import ContainerSpec, DeviceGrant, Gateway
from orchestrator.errors import ChannelError, EngineError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_secrets import SecretMissingError, SecretSource
from orchestrator.registry import Check
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.sandbox.verdict import Verdict, judge
from orchestrator.supervisor.container_policy import RUN_FOLDER, container_spec, secrets_folder
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.failures import verdict_of_engine
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.notify import NotifySocket, SocketPathError
from orchestrator.supervisor.watch import evidence_of

_SILENT_LOOK: Final = 1.0
"""Seconds between looks at a container that says nothing: only for one that died unseen or an image that does not
notify.
"""
_GATEWAY_LOOKS: Final = 0.03
"""Seconds between questions through a gateway, which says nothing by itself."""


@asynccontextmanager
async def engine_verdicts(doing: str) -> AsyncIterator[None]:
    """RunQueues what the engine could not do while `doing` into `InstanceEndedError`."""
    try:
        yield
    except EngineError as error:
        raise InstanceEndedError(verdict_of_engine(error, doing)) from error


def check_host(deps: SupervisorDeps, manifest: Manifest, folder: Path) -> list[Check]:
    """The host-side checks. Raises `InstanceEndedError` for the first thing that is missing."""
    checks = deps.checker.check(manifest, folder)
    for check in checks:
        if check.code is not None:
            raise InstanceEndedError(Verdict(check.code, check.reason or check.detail))
    return [Check(check.name, check.ok, check.detail, "host") for check in checks]


async def ensure_image(deps: SupervisorDeps, manifest: Manifest, folder: Path) -> str:
    """The id of the plugin's image, built where its content changed."""
    recipe = ImageRecipe.of(manifest, folder)
    async with engine_verdicts("its image was made ready"):
        return (await deps.builder.ensure_plugin(recipe)).id


async def start_container(
    deps: SupervisorDeps, instance: Instance, folder: Path, *, on_start: Callable[[], None]
) -> None:
    """Create and start the container and open the channel to it; returns when its control socket answers. `on_start`
    is called as the engine is told to start it.
    """
    _make_folder(deps.run_dir, instance.run_folder)
    await asyncio.to_thread(_lay_out_secrets, deps.checker.secrets, instance)
    gateway = await _gateway(deps, instance)
    devices = await _devices(deps, instance)
    spec = container_spec(
        instance.manifest,
        instance.limits,
        instance.identity,
        image=instance.image_id or "",
        run_folder=instance.run_folder,
        models_folder=deps.checker.models_folder(instance.manifest, folder),
        max_result=int(deps.settings.max_result),
        devices=devices,
        grant_labels=instance.grant.labels() if instance.grant else {},
        gateway=gateway,
    )
    sockets = UnixEndpoint(instance.run_folder)
    try:
        notify = NotifySocket(sockets.notify) if gateway is None else nullcontext()
    except SocketPathError as error:
        raise InstanceEndedError(
            Verdict(ReasonCode.INIT_ERROR, f"The container cannot be reached: {error}.")
        ) from error
    with notify as told:
        async with deps.start_slots, engine_verdicts("the container was started"):
            instance.launch = asyncio.create_task(_launch(deps, instance, spec, on_start))
            await asyncio.shield(instance.launch)
            endpoint = await deps.engine.endpoint(instance.container_id or "", instance.run_folder)
        instance.open_channel(RuntimeChannel(endpoint))
        if told is not None:
            await _until_it_speaks(deps, instance, told.ready(), sockets.control.exists)
        else:
            await _until_it_speaks(deps, instance, _answers(instance.channel), lambda: False)


async def _gateway(deps: SupervisorDeps, instance: Instance) -> Gateway | None:
    """What a container needs whose sockets cannot be reached as files."""
    async with engine_verdicts("its channel was chosen"):
        match deps.settings.channel:
            case "auto":
                needed = not await deps.engine.shares_sockets()
            case chosen:
                needed = chosen == "tcp"
        if not needed:
            return None
        image = await deps.builder.ensure_base()
    return Gateway(image.id, await asyncio.to_thread(lay_out_token, instance.run_folder), RUN_FOLDER)


async def _devices(deps: SupervisorDeps, instance: Instance) -> DeviceGrant | None:
    """Lease the GPUs that the manifest asks for; the lease is given back when the container is gone."""
    if not instance.manifest.requires_gpu:
        return None
    instance.grant = await deps.gpus.acquire(instance.identity.instance, instance.manifest)
    return await deps.gpus.device_grant(instance.grant, video=instance.manifest.gpu.video)


async def _launch(deps: SupervisorDeps, instance: Instance, spec: ContainerSpec, on_start: Callable[[], None]) -> None:
    instance.container_id = await deps.engine.create(spec)
    if instance.ended is None:
        on_start()
        await deps.engine.start(instance.container_id)


async def _answers(channel: RuntimeChannel) -> None:
    while True:
        try:
            await channel.status()
        except ChannelError:
            await asyncio.sleep(_GATEWAY_LOOKS)
        else:
            return


async def _until_it_speaks(
    deps: SupervisorDeps, instance: Instance, ready: Coroutine[Any, Any, None], there: Callable[[], bool]
) -> None:
    """Until `ready` returns; a container that is `there` without that is well too."""
    told = asyncio.ensure_future(ready)
    died = asyncio.ensure_future(instance.container_died.wait())
    try:
        while True:
            await asyncio.wait({told, died}, timeout=_SILENT_LOOK, return_when=asyncio.FIRST_COMPLETED)
            if told.done() or there():
                return
            async with engine_verdicts("the container came up"):
                status = await deps.engine.inspect(instance.container_id or "")
            if status.over:
                raise InstanceEndedError(judge(evidence_of(status, instance)))
    finally:
        told.cancel()
        died.cancel()


def _make_folder(parent: Path, folder: Path) -> None:
    """The sockets' folder: anyone may write in it, since the container's user may be mapped to any number; its parent
    keeps all but us out.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    parent.chmod(0o700)
    folder.mkdir()
    folder.chmod(0o1777)  # what lies there is its maker's alone to move or remove


def _lay_out_secrets(source: SecretSource, instance: Instance) -> None:
    """Copies to be mounted read-only. As with the sockets the container's user may have any number, so that it is the
    parent of the run folder that keeps all others out.
    """
    manifest = instance.manifest
    if not manifest.secrets:
        return
    folder = secrets_folder(instance.run_folder)
    folder.mkdir(mode=0o755)
    for name in manifest.secrets:
        try:
            value = source.read(manifest.name, name)
        except SecretMissingError as error:
            raise InstanceEndedError(Verdict(ReasonCode.MODEL_MISSING, str(error))) from None
        (folder / name).write_bytes(value)
        (folder / name).chmod(0o444)
