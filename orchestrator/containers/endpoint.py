"""Where a container's runtime can be reached. A channel is made from one of these and knows nothing else of the
engine.
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

SOCKET_PATH_LIMIT = 107
"""Bytes that the path of a Unix socket may have (Linux, sockaddr_un)."""


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """Control and tool sockets in a folder that the container and the orchestrator share."""

    folder: Path

    @property
    def control(self) -> Path:
        return self.folder / "control.sock"

    @property
    def tools(self) -> Path:
        return self.folder / "tools.sock"

    @property
    def notify(self) -> Path:
        """The orchestrator's own datagram socket, on which the container says that `control` answers."""
        return self.folder / "notify.sock"


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A gateway to the same sockets, which admits who has the instance's token."""

    host: str
    port: int
    token: str = field(repr=False)


Endpoint = UnixEndpoint | TcpEndpoint


def token_file(run_folder: Path) -> Path:
    """Where on the host an instance's token lies, if it has one; the next orchestrator finds it there."""
    return run_folder / "gateway-token"


def lay_out_token(run_folder: Path) -> Path:
    """Make a token of 256 random bits. It may be read by everyone who comes so far: the gateway's user may have any
    number, and it is the parent of the run folder that keeps all others out.
    """
    file = token_file(run_folder)
    file.write_text(secrets.token_hex(32))
    file.chmod(0o444)
    return file
