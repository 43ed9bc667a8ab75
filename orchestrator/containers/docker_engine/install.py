"""An `Installation`: a container that runs the script, then a commit of it."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from orchestrator.containers.docker_engine import answers, bodies, decoding
from orchestrator.containers.docker_engine.build import tar_stream
from orchestrator.containers.docker_engine.calls import EngineCalls
from orchestrator.containers.docker_engine.client import Client, create_container, raise_for_status, url
from orchestrator.containers.docker_engine.streams import Streams
from orchestrator.containers.spec import BUILD_TAIL, Installation
from orchestrator.errors import BuildError, EngineError, EngineRefusedError, EngineUnreachableError

_EXIT_POLL: Final = 0.1  # seconds
_LOG_BYTES: Final = 10 * 1024 * 1024


async def run_installation(
    calls: EngineCalls, streams: Streams, installation: Installation, on_output: Callable[[str], None]
) -> None:
    """Make the image. On cancellation, as after any end, the container is removed. Raises `BuildError`, also for what
    the engine refuses on the way.
    """
    bounds = calls.bounds
    tail: deque[str] = deque(maxlen=BUILD_TAIL)

    def write(line: str) -> None:
        tail.append(line)
        on_output(line)

    base = await calls.query(lambda client: _config(client, installation.base))
    if not base.get("Entrypoint"):
        # The engine takes an empty one for none, and would keep the script as the image's.
        raise BuildError(f"the image {installation.base} has no entry point, so nothing can be installed into it", "")
    container = await calls.change(lambda client: create_container(client, _body(installation), ""))
    try:
        async with asyncio.timeout(bounds.build):
            await calls.pull(lambda client: _put(client, container, installation))
            await calls.change(lambda client: client.start(container))
            async with streams.open(
                lambda client: _follow(client, container), bound=bounds.query, silence=bounds.silence
            ) as pieces:
                async for line in decoding.log_lines(pieces):
                    write(line)
            exit_code = await _exit_code(calls, container)
        if exit_code != 0:
            raise BuildError(
                f"the installation for {installation.tag} failed with exit code {exit_code}", "\n".join(tail)
            )
        await calls.pull(lambda client: _commit(client, container, installation, base))
    except TimeoutError:
        raise BuildError(
            f"the installation for {installation.tag} took more than {bounds.build:g} s", "\n".join(tail)
        ) from None
    except EngineRefusedError as error:  # a full disk, for one
        raise BuildError(f"the installation for {installation.tag} was refused: {error}", "\n".join(tail)) from error
    finally:
        # One that cannot be removed must not hide how the installation ended; the next start of the orchestrator tries
        # again.
        with suppress(EngineError):
            await asyncio.shield(calls.remove(lambda client: client.remove_container(container, v=False, force=True)))


def _body(installation: Installation) -> dict[str, Any]:
    volume = {"Type": "volume", "Source": installation.volume, "Target": installation.volume_path}
    return {
        "Image": installation.base,
        "User": "0:0",
        "Env": [f"{name}={value}" for name, value in bodies.gpu_variables(None).items()],
        # No command beside it: a commit would store it in the image.
        "Entrypoint": ["sh", "-ec", installation.script],
        "Labels": {**installation.labels, **installation.owner_labels},
        "Tty": False,
        "HostConfig": {
            "Mounts": [{**volume, "VolumeOptions": {"Labels": dict(installation.owner_labels)}}],
            "Init": True,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": bodies.log_config(_LOG_BYTES),
        },
    }


def _put(client: Client, container: str, installation: Installation) -> None:
    response = client.put(
        url(client, f"/containers/{container}/archive"),
        params={"path": "/"},
        data=tar_stream(installation.files),
        headers={"Content-Type": "application/x-tar"},
    )
    raise_for_status(response)


def _follow(client: Client, container: str) -> Any:
    query = {"stdout": "1", "stderr": "1", "follow": "1"}
    return client.get(url(client, f"/containers/{container}/logs"), params=query, stream=True)


async def _exit_code(calls: EngineCalls, container: str) -> int:
    # The stream ends a moment before the engine knows the exit code. Or it broke, and the script goes on.
    for _ in range(round(calls.bounds.query / _EXIT_POLL)):
        status = await calls.query(lambda client: answers.container(client.inspect_container(container)))
        if status.over:
            return -1 if status.exit_code is None else status.exit_code
        await asyncio.sleep(_EXIT_POLL)
    raise EngineUnreachableError("the output of an installation broke off")


def _config(client: Client, image: str) -> Mapping[str, Any]:
    return answers.mapping(answers.mapping(client.inspect_image(image)).get("Config"))  # type: ignore[no-untyped-call]


def _commit(client: Client, container: str, installation: Installation, base: Mapping[str, Any]) -> None:
    repository, _, tag = installation.tag.rpartition(":")
    changes = [
        f"ENTRYPOINT {json.dumps(base['Entrypoint'])}",
        f"CMD {json.dumps(base.get('Cmd') or [])}",
        f"USER {base.get('User') or '0:0'}",
        # An image hands its labels on to containers, and who looks for unfinished installations would find those.
        *(f'LABEL {name}=""' for name in installation.owner_labels),
    ]
    client.commit(container, repository=repository, tag=tag, changes=changes)
