"""Where a container's runtime is reached: all that the runtime client knows of the engine."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path


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
        """The orchestrator's own datagram socket, on which the container reports that `control` answers."""
        return self.folder / "notify.sock"


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A gateway to the same sockets, which admits callers with the instance's token."""

    host: str
    port: int
    token: str = field(repr=False)


Endpoint = UnixEndpoint | TcpEndpoint


def token_file(run_folder: Path) -> Path:
    """The host file of an instance's token, if it has one; a restarted orchestrator finds it there."""
    return run_folder / "gateway-token"


def lay_out_token(run_folder: Path) -> Path:
    """Write a new token of 256 random bits; its file."""
    # Readable by all: the gateway's user may have any number. The run folder's parent keeps everyone else out.
    file = token_file(run_folder)
    file.write_text(secrets.token_hex(32))
    file.chmod(0o444)
    return file
