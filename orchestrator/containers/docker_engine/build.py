"""A build of an image: its request, its context as a tar stream, and its outcome."""

import asyncio
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.docker_engine.client import Client, url
from orchestrator.containers.docker_engine.decoding import BuildOutput
from orchestrator.containers.docker_engine.streams import Streams
from orchestrator.errors import BuildError, EngineRefusedError, EngineUnreachableError

_PIECE: Final = 256 * 1024  # bytes of the context that are in memory at a time


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """The arguments of `ContainerEngine.build`."""

    context: Path
    tag: str
    dockerfile: str
    labels: Mapping[str, str]
    build_args: Mapping[str, str]

    def send(self, client: Client, silence: float) -> Any:
        """Start the build. The context is streamed; the response comes when the engine has all of it."""
        query = {
            "t": self.tag,
            "dockerfile": self.dockerfile,
            "labels": json.dumps(dict(self.labels)),
            "buildargs": json.dumps(dict(self.build_args)),
            "rm": "1",
            "forcerm": "1",
        }
        return client.post(
            url(client, "/build"),
            params=query,
            data=tar_stream(self.context),
            headers={"Content-Type": "application/x-tar"},
            stream=True,
            timeout=silence,
        )


async def run_build(
    streams: Streams, request: BuildRequest, *, on_output: Callable[[str], None], bound: float, silence: float
) -> None:
    """Build to the end. On cancellation it disconnects, whereupon the engine stops the build.

    `bound`: seconds for the whole build; `silence`: between two lines of output. Raises `BuildError`.
    """
    output = BuildOutput(on_output)
    try:
        async with (
            asyncio.timeout(bound),
            streams.open(lambda client: request.send(client, silence), bound=silence, silence=silence) as pieces,
        ):
            async for piece in pieces:
                output.feed(piece)
    except TimeoutError:
        raise BuildError(f"the build of {request.tag} took more than {bound:g} s", output.tail) from None
    except EngineRefusedError as error:  # a Dockerfile that cannot be parsed, for one
        raise BuildError(f"the build of {request.tag} was refused: {error}", output.tail) from error
    output.end()
    if output.error:
        raise BuildError(f"the build of {request.tag} failed: {output.error}", output.tail)
    if not output.image:
        raise EngineUnreachableError(f"the build of {request.tag} broke off")


def tar_stream(folder: Path) -> Iterator[bytes]:
    """`folder` as a tar archive, in pieces of at most 256 KiB. Everything is root's, readable by all, without times;
    symbolic links are sent as links.
    """
    for path in sorted(folder.rglob("*")):
        member = _member(path, path.relative_to(folder).as_posix())
        if member is None:
            continue
        yield member.tobuf(tarfile.PAX_FORMAT)
        if member.isreg():
            yield from _content(path, member.size)
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def _member(path: Path, name: str) -> tarfile.TarInfo | None:
    stat = path.lstat()
    # Fixed modes, so that the plugin's user can read what is 0600 here; no times, so that Docker's layer cache
    # recognises equal content.
    member = tarfile.TarInfo(name)
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif path.is_file():
        member.size, member.mode = stat.st_size, 0o755 if stat.st_mode & 0o100 else 0o644
    else:
        return None  # sockets, pipes and devices
    return member


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                # Its size has been sent already, in its header.
                raise OSError(f"{path.name} became shorter while it was being read")
            left -= len(piece)
            yield piece
    yield b"\0" * (-size % tarfile.BLOCKSIZE)
