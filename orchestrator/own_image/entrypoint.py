"""The entry point of the orchestrator's own image: gives up root, then is the command `orchestrator`.

Only the engine's socket is needed, and the group that may use it has another number on every host. So the container may
begin as root with the two capabilities that changing user and group take (SETUID, SETGID); after this it has none.
"""

import os
import sys
from pathlib import Path
from typing import Final

USER: Final = 65531
"""User and group `orchestrator` in the image."""
_SOCKET: Final = "/var/run/docker.sock"


def socket_group(host: str | None) -> int | None:
    """The group of the engine's socket; `host` is DOCKER_HOST. None where it is no socket here."""
    path = _SOCKET if not host else host.removeprefix("unix://")
    try:
        return Path(path).stat().st_gid
    except OSError:
        return None


def become(user: int, groups: list[int]) -> None:
    """Be `user` for good, with these groups beside its own."""
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def main() -> None:
    if os.geteuid() == 0:
        group = socket_group(os.environ.get("DOCKER_HOST"))
        try:
            become(USER, [] if group is None else [group])
        except PermissionError:
            sys.exit(
                "The orchestrator may not change its user. Give its container the capabilities SETUID and SETGID, or "
                f"start it with --user {USER} --group-add {'<group of the engine socket>' if group is None else group}."
            )
    os.execv(sys.executable, [sys.executable, "-I", "-m", "orchestrator", *sys.argv[1:]])  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
