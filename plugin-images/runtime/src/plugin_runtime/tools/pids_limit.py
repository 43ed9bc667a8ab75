"""Whether an error came from the container's limit on processes and threads, which nothing names by itself."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from plugin_runtime.tools.plugin_errors import links, message_of

if TYPE_CHECKING:
    from plugin_runtime.shared.cgroup import Cgroup

SIGNS = ("can't start new thread", "resource temporarily unavailable", "pthread_create", "thread creation failed")


class PidsLimit:
    """Reads the kernel's counter of processes and threads that were refused, when an error looks like one."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup

    def advice(self, error: BaseException) -> str:
        """To be added to the error's message; empty where the limit is not its cause."""
        if not any(_looks_like_it(link) for link in links(error)):
            return ""
        limit, refused = self._cgroup.pids()
        if not refused:
            return ""
        size = f" of {limit}" if limit is not None else ""
        return (
            f"; the container is at its limit{size} on processes and threads: raise `limits.pids` in plugin.yaml, or "
            "have fewer started (libraries heed OMP_NUM_THREADS)"
        )


def _looks_like_it(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return True
    text = message_of(error).lower()
    return any(sign in text for sign in SIGNS)
