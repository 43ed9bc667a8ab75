"""Bring-up: the steps from what `preparation` has made to a container whose control socket answers. A step that fails
raises with its verdict.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.endpoint import UnixEndpoint, lay_out_token
from orchestrator.containers.spec import ContainerSpec, DeviceGrant, Gateway
from orchestrator.errors import ChannelError, EngineError, EngineRefusedError, EngineUnreachableError
from orchestrator.gpus.device_requests import LABEL_WAY
from orchestrator.gpus.refusals import Refusal, judge_refusal, worst
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_secrets import SecretMissingError, SecretSource
from orchestrator.run_folder import session_ended
from orchestrator.runtime_client.client import RuntimeChannel
from orchestrator.sandbox.verdict import SOCKETS_LOST, Verdict, judge
from orchestrator.supervisor.activity import activity
from orchestrator.supervisor.container_policy import RUN_FOLDER, container_spec, secrets_folder
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.gpu_allocator import gpu_verdict
from orchestrator.supervisor.instance import Instance, InstanceEndedError
from orchestrator.supervisor.limits import (
    found_by_engine,
    limits_unsupported,
    missing_limits,
    refused_limits,
    required_names,
    unlimited_spec,
)
from orchestrator.supervisor.notify_socket import NotifySocket, SocketPathError
from orchestrator.supervisor.start_verdict import engine_verdicts
from orchestrator.supervisor.watch import evidence_of

_log = logging.getLogger(__name__)

# A container that has not notified may have died unnoticed, or its image never notifies.
_INSPECT_INTERVAL: Final = 1.0  # seconds
_WAITING_FOR_GPU: Final = "waiting for a GPU"
# Through a gateway comes no notification.
_GATEWAY_POLL_INTERVAL: Final = 0.03  # seconds between status requests


async def start_container(
    deps: SupervisorDeps, instance: Instance, folder: Path, *, on_start: Callable[[], None]
) -> None:
    """Create and start the container and open the channel to it; returns when its control socket answers. `on_start`
    is called just before the engine starts it.
    """
    _make_run_folder(deps.run_dir, instance.run_folder)
    await asyncio.to_thread(_write_secrets, deps.checker.secrets, instance)
    gateway = await _gateway(deps, instance)
    device_requests = await _device_requests(deps, instance)
    async with engine_verdicts("its number of cores and its disk were looked up"):
        engine, instance.scratch_quota = await deps.engine_info(), await deps.engine.holds_volumes_to_size()
    spec = container_spec(
        instance.manifest,
        instance.limits,
        instance.identity,
        image=instance.image_id or "",
        run_folder=instance.run_folder,
        models=deps.checker.models(instance.manifest, folder),
        max_result=int(deps.settings.max_result),
        cores=engine.cores,
        grant_labels=instance.grant.labels() if instance.grant else {},
        gateway=gateway,
        quota=instance.scratch_quota,
        allow_unlimited=deps.settings.allow_unlimited,
    )
    if spec.cpus is not None and "cpus" in deps.settings.allow_unlimited and "cpus" not in engine.limits:
        spec, instance.unlimited = unlimited_spec(spec, ("cpus",)), ("cpus",)
    sockets = UnixEndpoint(instance.run_folder)
    try:
        # Bound before there is a container, so that no notification is lost.
        notify = NotifySocket(sockets.notify) if gateway is None else nullcontext()
    except SocketPathError as error:
        raise InstanceEndedError(
            Verdict(ReasonCode.INIT_ERROR, f"The container cannot be reached: {error}.")
        ) from error
    with notify as notification:
        # Only the engine's work takes a slot: the plugin's own start may take minutes.
        async with deps.start_slots, engine_verdicts("the container was started"):
            instance.launch = asyncio.create_task(_launch(deps, instance, spec, device_requests, on_start))
            # A cancelled start leaves it to finish: the teardown waits for it, and has the container's id then.
            await asyncio.shield(instance.launch)
            endpoint = await deps.engine.endpoint(instance.container_id or "", instance.run_folder)
        instance.open_channel(RuntimeChannel(endpoint))
        if notification is not None:
            await _until_reachable(deps, instance, notification.ready(), sockets.control.exists)
        else:
            await _until_reachable(deps, instance, _poll_status(instance.channel), lambda: False)


async def _gateway(deps: SupervisorDeps, instance: Instance) -> Gateway | None:
    """The gateway that a container needs whose sockets cannot be reached as files; None where they can."""
    async with engine_verdicts("its channel was chosen"):
        match deps.settings.channel:
            case "auto":
                needed = not await deps.engine.shares_sockets()
            case chosen:
                needed = chosen == "tcp"
        if not needed:
            return None
        # The base image holds the gateway's program.
        image = await deps.builder.ensure_base()
    return Gateway(image.id, await asyncio.to_thread(lay_out_token, instance.run_folder), RUN_FOLDER)


async def _device_requests(deps: SupervisorDeps, instance: Instance) -> Sequence[DeviceGrant]:
    """Lease the GPUs of the manifest: the ways to request them, none for a plugin without. The lease ends with the
    removal of the container.
    """
    if not instance.manifest.requires_gpu:
        return ()
    async with activity(deps.registry, instance.identity.plugin, _WAITING_FOR_GPU) as say:
        instance.grant = await deps.gpus.acquire(instance.identity, instance.manifest, say)
    instance.granted_at = asyncio.get_running_loop().time()
    return await deps.gpus.device_requests(instance.grant, video=instance.manifest.gpu.video)


async def _launch(
    deps: SupervisorDeps,
    instance: Instance,
    spec: ContainerSpec,
    device_requests: Sequence[DeviceGrant],
    on_start: Callable[[], None],
) -> None:
    """Create and start the container, with the first of the device requests that the engine serves."""
    if not device_requests:
        return await _launch_once(deps, instance, spec, on_start)
    refusals: list[Refusal] = []
    for devices in device_requests:
        if refusals and (instance.ended is not None or not await _discard(deps, instance)):
            break
        try:
            labels = {**spec.labels, LABEL_WAY: devices.driver}
            await _launch_once(deps, instance, replace(spec, devices=devices, labels=labels), on_start)
        except EngineUnreachableError:
            raise
        except EngineError as error:
            refusal = judge_refusal(str(error))
            if refusal is None:
                raise
            refusals.append(refusal)
            deps.gpus.refused(devices, refusal)
            if not refusal.other_way:
                break
        else:
            return deps.gpus.served(devices)
    raise InstanceEndedError(gpu_verdict(worst(refusals)))


async def _discard(deps: SupervisorDeps, instance: Instance) -> bool:
    """Remove a container that could not be started. False where it is left to the teardown."""
    if instance.container_id is not None:
        try:
            await deps.engine.remove(instance.container_id)
        except EngineError as error:
            _log.warning("%s could not be removed: %s", instance.identity.container_name, error)
            return False
        instance.container_id = None
    return True


async def _launch_once(
    deps: SupervisorDeps, instance: Instance, spec: ContainerSpec, on_start: Callable[[], None]
) -> None:
    async with _limit_verdicts(deps, instance):
        while True:
            try:
                return await _create_and_start(deps, instance, spec, on_start)
            except EngineRefusedError as error:
                # Engines refuse one limit after the other, some at the creation and some at the start.
                names = refused_limits(str(error), instance.limits)
                required = required_names(instance.limits, deps.settings.allow_unlimited)
                if not names or required & {*names} or {*names} <= {*instance.unlimited}:
                    raise
                if instance.ended is not None or not await _discard(deps, instance):
                    raise
                instance.unlimited = tuple(dict.fromkeys((*instance.unlimited, *names)))
                spec = unlimited_spec(spec, names)


async def _create_and_start(
    deps: SupervisorDeps, instance: Instance, spec: ContainerSpec, on_start: Callable[[], None]
) -> None:
    said: list[str] = []
    instance.container_id = await deps.engine.create(spec, on_warning=said.append)
    instance.engine_said = tuple(said)
    # One that was stopped while it was created is removed by its teardown.
    if instance.ended is None:
        await _require_limits(deps, instance)
        on_start()
        await deps.engine.start(instance.container_id or "")
        instance.started.set()


async def _require_limits(deps: SupervisorDeps, instance: Instance) -> None:
    """Before it is started: where the engine said that it drops something, see whether that is a limit. Raises
    `InstanceEndedError`.
    """
    # What an engine drops in silence, the runtime finds.
    if not instance.engine_said:
        return
    name = instance.identity.container_name
    _log.warning("%s: the engine says of its container %s: %s", instance.identity.plugin, name, instance.engine_said)
    found = found_by_engine(await deps.engine.isolation(instance.container_id or ""), instance.limits)
    instance.unlimited = tuple(dict.fromkeys((*instance.unlimited, *missing_limits(instance.limits, found))))
    missing = missing_limits(instance.limits, found, deps.settings.allow_unlimited)
    if missing:
        engine = await deps.engine_info()
        raise InstanceEndedError(limits_unsupported(missing, instance.limits, said=instance.engine_said, engine=engine))


@asynccontextmanager
async def _limit_verdicts(deps: SupervisorDeps, instance: Instance) -> AsyncIterator[None]:
    """Raises `InstanceEndedError` for an engine's refusal of a limit."""
    try:
        yield
    except EngineRefusedError as error:
        refused = refused_limits(str(error), instance.limits)
        if not refused:
            raise
        verdict = limits_unsupported(
            refused, instance.limits, said=(str(error),), engine=deps.known_engine, refused=True
        )
        raise InstanceEndedError(verdict) from error


async def _poll_status(channel: RuntimeChannel) -> None:
    """Returns when the runtime answers."""
    while True:
        try:
            await channel.status()
        except ChannelError:
            await asyncio.sleep(_GATEWAY_POLL_INTERVAL)
        else:
            return


async def _until_reachable(
    deps: SupervisorDeps, instance: Instance, ready: Coroutine[Any, Any, None], reachable: Callable[[], bool]
) -> None:
    """Returns when `ready` does, or when `reachable` is true without that. Raises `InstanceEndedError` where the
    container ended.
    """
    readiness = asyncio.ensure_future(ready)
    died = asyncio.ensure_future(instance.container_died.wait())
    try:
        while True:
            await asyncio.wait({readiness, died}, timeout=_INSPECT_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            # An image that never notifies is reachable as soon as its socket exists.
            if readiness.done() or reachable():
                return
            # Set again by the next event: the last one may have been about a container that was discarded.
            instance.container_died.clear()
            async with engine_verdicts("the container came up"):
                status = await deps.engine.inspect(instance.container_id or "")
            if status.over:
                raise InstanceEndedError(judge(evidence_of(status, instance)))
            if died.done():
                died = asyncio.ensure_future(instance.container_died.wait())
    finally:
        readiness.cancel()
        died.cancel()


def _make_run_folder(parent: Path, folder: Path) -> None:
    # Anyone may write in the folder, since the container's user may be mapped to any number; its parent admits only us.
    if session_ended(parent):  # only logind can make it again
        raise InstanceEndedError(Verdict(ReasonCode.INIT_ERROR, SOCKETS_LOST))
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    parent.chmod(0o700)
    folder.mkdir()
    folder.chmod(0o1777)  # a file in it is its maker's alone to move or remove


def _write_secrets(source: SecretSource, instance: Instance) -> None:
    """Copies of the secrets, to be mounted read-only."""
    manifest = instance.manifest
    if not manifest.secrets:
        return
    # Readable for all, since the container's user may have any number; the parent of the run folder admits only us.
    folder = secrets_folder(instance.run_folder)
    folder.mkdir(mode=0o755)
    for name in manifest.secrets:
        try:
            value = source.read(manifest.name, name)
        except SecretMissingError as error:
            raise InstanceEndedError(Verdict(ReasonCode.SECRET_MISSING, str(error))) from None
        (folder / name).write_bytes(value)
        (folder / name).chmod(0o444)
