"""A readiness notification, and what its socket leaves behind."""

import asyncio
import os
import socket
from pathlib import Path

from orchestrator.supervisor.notify_socket import NotifySocket


async def test_ready_returns_when_the_notification_has_come(tmp_path: Path) -> None:
    with NotifySocket(tmp_path / "notify") as notify, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        waiting = asyncio.create_task(notify.ready())
        sender.sendto(b"STATUS=starting", str(tmp_path / "notify"))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        sender.sendto(b"STATUS=up\nREADY=1", str(tmp_path / "notify"))
        await asyncio.wait_for(waiting, 5)
    assert not (tmp_path / "notify").exists()


async def test_the_next_socket_with_its_number_is_watched(tmp_path: Path) -> None:
    """Although who waited for the notification has not ended yet, only been cancelled."""
    with NotifySocket(tmp_path / "notify") as notify:
        waiting = asyncio.create_task(notify.ready())
        await asyncio.sleep(0)
        number = notify._socket.fileno()
        waiting.cancel()
    came = asyncio.Event()
    first, sender = socket.socketpair()
    if (descriptor := first.detach()) != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    with sender, socket.socket(fileno=number) as receiver:
        receiver.setblocking(False)
        asyncio.get_running_loop().add_reader(receiver, came.set)
        sender.send(b"x")
        await asyncio.wait_for(came.wait(), 5)
        asyncio.get_running_loop().remove_reader(receiver)
