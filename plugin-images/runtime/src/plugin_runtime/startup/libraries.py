"""The system libraries that an extension module lacks: all of them, where the loader names the first."""

from __future__ import annotations

import contextlib
import os
import re

TIMEOUT_SECONDS = 10
NOT_FOUND = r"^\s*(\S+) => not found"


def missing_libraries(error: BaseException) -> tuple[str, ...]:
    """In the order in which the loader needs them; empty where no extension module failed, or `ldd` does."""
    paths = _extensions(error)
    if not paths:
        return ()
    import subprocess  # noqa: PLC0415 - hardly any start needs it

    for path in paths:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            listed = subprocess.run(  # noqa: S603 - the path is that of a module which Python has just loaded
                ["ldd", path],  # noqa: S607 - as above
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            found = re.findall(NOT_FOUND, listed.stdout.decode(errors="replace"), re.MULTILINE)
            if found:
                return tuple(dict.fromkeys(found))
    return ()


def _extensions(error: BaseException) -> list[str]:
    paths = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        path = getattr(link, "path", None) if isinstance(link, ImportError) else None
        if isinstance(path, str) and ".so" in os.path.basename(path):  # noqa: PTH119 - it need not be a path at all
            paths.append(path)
        link = link.__cause__ or link.__context__
    return paths
