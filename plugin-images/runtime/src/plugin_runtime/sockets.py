"""The Unix sockets that both processes make, and the one that they only write to."""

from __future__ import annotations

import contextlib
import os
import socket


def listen(path: str) -> socket.socket:
    """A listening Unix socket that every user who reaches its folder may connect to."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - pathlib costs the supervisor a megabyte
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o666)  # noqa: PTH101, S103 - as above; the folder's parent keeps everyone else out
    listener.listen(128)
    return listener


def notify_ready(notify_socket: str | None) -> None:
    """Say READY=1 as sd_notify(3) does. Nobody listening is no error."""
    if not notify_socket:
        return
    address = "\0" + notify_socket[1:] if notify_socket.startswith("@") else notify_socket
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # noqa: FBT003 - its own signature
        sender.sendto(b"READY=1", address)
