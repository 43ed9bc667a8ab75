"""Where a container's runtime can be reached. A channel is made from one of these and knows nothing else of the
engine.
"""

from dataclasses import dataclass
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


Endpoint = UnixEndpoint
