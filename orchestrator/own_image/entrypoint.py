"""The entry point of the orchestrator's own image: drops root, then executes the command `orchestrator`."""

import os
import signal
import sys
from pathlib import Path
from typing import Final

USER: Final = 65531
"""Id of the user and the group `orchestrator` in the image."""
_SOCKET: Final = "/var/run/docker.sock"


def socket_group(host: str | None) -> int | None:
    """The group id of the engine's socket; None if there is no socket here. `host` is DOCKER_HOST."""
    path = _SOCKET if not host else host.removeprefix("unix://")
    try:
        return Path(path).stat().st_gid
    except OSError:
        return None


def become(user: int, groups: list[int]) -> None:
    """Become `user` permanently, with these supplementary groups."""
    # In this order: without root's user id neither groups nor group can be changed.
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def main(module: str = "orchestrator") -> None:
    """Drop root, then become `python -m module` with this process's arguments."""
    # The engine's socket has a group of another id on each host, which only root can join. So the container may start
    # as root with the capabilities SETUID and SETGID; afterwards it has none.
    if os.geteuid() == 0:
        group = socket_group(os.environ.get("DOCKER_HOST"))
        try:
            become(USER, [] if group is None else [group])
        except PermissionError:
            sys.exit(
                "The orchestrator may not change its user. Give its container the capabilities SETUID and SETGID, or "
                f"start it with --user {USER} --group-add {'<group of the engine socket>' if group is None else group}."
            )
    if sys.argv[1:2] == ["serve"] or module != "orchestrator":
        # The kernel drops it for a process 1 without a handler: it stays pending until `serve` has one.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    # Replaces this process, so that signals to the container's process 1 reach the orchestrator.
    os.execv(sys.executable, [sys.executable, "-I", "-m", module, *sys.argv[1:]])  # noqa: S606 - no shell is needed


if __name__ == "__main__":
    main()
