"""A build of an image: the request, its output as lines, and how it ended."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.containers.docker_engine.client import Client, url
from orchestrator.containers.docker_engine.log_frames import LONGEST_LINE
from orchestrator.containers.docker_engine.streams import Streams
from orchestrator.containers.docker_engine.tar_stream import tar_stream
from orchestrator.containers.spec import BUILD_TAIL
from orchestrator.errors import BuildError, EngineRefusedError, EngineUnreachableError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Docker paints what a step writes to stderr red."""
_LONGEST_MESSAGE: Final = 1024 * 1024
"""Bytes of one JSON object that are kept. Docker's are some KiB; a longer one, cut, is no JSON and is skipped."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What `ContainerEngine.build` was asked."""

    context: Path
    tag: str
    dockerfile: str
    labels: Mapping[str, str]
    build_args: Mapping[str, str]

    def send(self, client: Client, silence: float) -> Any:
        """Begin it. The context streams; the answer comes when it is over there."""
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
    """Build to the end. Cancelled, it hangs up, on which the engine stops the build.

    `bound`: seconds for all of it; `silence`: between two lines of output. Raises `BuildError`.
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
    except EngineRefusedError as error:  # a Dockerfile that cannot be read, for one
        raise BuildError(f"the build of {request.tag} was refused: {error}", output.tail) from error
    output.end()
    if output.error:
        raise BuildError(f"the build of {request.tag} failed: {output.error}", output.tail)
    if not output.image:
        raise EngineUnreachableError(f"the build of {request.tag} broke off")


@dataclass(slots=True)
class BuildOutput:
    """Docker's answer to a build: JSON objects, one a line. At its end, `error` or `image` says how it went."""

    on_line: Callable[[str], None]
    error: str = ""
    image: str = ""
    _buffer: bytearray = field(default_factory=bytearray)
    _line: str = ""
    _tail: list[str] = field(default_factory=list)

    @property
    def tail(self) -> str:
        """The last lines so far."""
        return "\n".join(self._tail)

    def feed(self, data: bytes) -> None:
        """The next bytes of the answer."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            self._message(self._buffer)
            self._buffer.clear()
        self._keep(rest)

    def end(self) -> None:
        """Nothing more will come."""
        self._message(self._buffer)
        if self._line:
            self._tell(self._line)
        self._buffer.clear()
        self._line = ""

    def _keep(self, piece: bytes) -> None:
        self._buffer += piece[: max(0, _LONGEST_MESSAGE - len(self._buffer))]

    def _message(self, message: bytes | bytearray) -> None:
        try:
            body = json.loads(message)
        except ValueError:
            return
        if not isinstance(body, dict):
            return
        if isinstance(error := body.get("error"), str):
            self.error = error
            self._tell(error)
        if isinstance(aux := body.get("aux"), dict) and isinstance(aux.get("ID"), str):
            self.image = aux["ID"]
        if isinstance(status := body.get("status"), str) and not body.get("progress"):  # a base image being pulled
            self._tell(f"{body['id']}: {status}" if body.get("id") else status)
        if isinstance(text := body.get("stream"), str):
            self._printed(text)

    def _printed(self, text: str) -> None:
        first, *others = text.split("\n")
        self._line += first
        for other in others:
            self._tell(self._line)
            self._line = other
        if len(self._line) > LONGEST_LINE:
            self._tell(self._line)
            self._line = ""

    def _tell(self, line: str) -> None:
        line = _COLOUR.sub("", line).rstrip("\r")
        self._tail = [*self._tail[1 - BUILD_TAIL :], line]
        self.on_line(line)
