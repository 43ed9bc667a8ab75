"""NotifySocket: a container's readiness notification (systemd's sd_notify). The conformance check uses it too."""

import asyncio
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import OrchestratorError
from orchestrator.run_folder import SOCKET_PATH_LIMIT


class SocketPathError(OrchestratorError):
    """A socket's path is longer than the kernel allows."""


class NotifySocket:
    """A datagram socket at `path` within its `with`. Raises `SocketPathError`."""

    def __init__(self, path: Path) -> None:
        length = len(str(path).encode())
        if length > SOCKET_PATH_LIMIT:
            raise SocketPathError(
                f"a socket's path would have {length} bytes, the kernel allows {SOCKET_PATH_LIMIT}. Set "
                "ORCHESTRATOR_RUN_DIR to a shorter path"
            )
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        # As the event loop's `sock_recv` demands.
        self._socket.settimeout(0)
        self._socket.bind(str(self._path))
        # The container's user may have any number.
        self._path.chmod(0o666)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Who waits may only have been cancelled, and its end is the loop's next step. Meanwhile another socket may get
        # this one's number, and a loop that still believes to watch it would never see what comes there.
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    async def ready(self) -> None:
        """Returns when READY=1 has come."""
        loop = asyncio.get_running_loop()
        while b"READY=1" not in (await loop.sock_recv(self._socket, 4096)).split(b"\n"):
            pass
