"""The Unix sockets that both processes make, and the orchestrator's, to which they only write."""

from __future__ import annotations

import contextlib
import os
import socket


def listen(path: str) -> socket.socket:
    """Listen where every user who reaches the folder may connect. Replaces a socket of an earlier start."""
    # It gets its name once it listens, so that whoever sees the name can connect.
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".{name[0]}")  # noqa: PTH118 - pathlib costs the supervisor a megabyte
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)  # noqa: PTH108 - as above
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(unfinished)
    os.chmod(unfinished, 0o666)  # noqa: PTH101, S103 - as above; the folder's parent shuts everyone else out
    listener.listen(128)
    os.rename(unfinished, path)  # noqa: PTH104 - as above
    return listener


def notify_ready(notify_socket: str | None) -> None:
    """Send READY=1 as sd_notify(3) does. It is no error if nobody listens."""
    if not notify_socket:
        return
    address = "\0" + notify_socket[1:] if notify_socket.startswith("@") else notify_socket
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # noqa: FBT003 - its own signature
        sender.sendto(b"READY=1", address)
