"""The history file itself: made, opened, recognised, moved aside."""

import os
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_COMPANIONS: Final = ("-wal", "-shm")
_KEPT_ASIDE: Final = 3
"""Damaged files that are kept; older ones are deleted, so that they never fill the disk."""
_BUSY_PATIENCE: Final = 1.0
"""Seconds to wait for a lock that another program holds."""

Identity = tuple[int | None, int | None]
"""Which file stands at the path, and which write-ahead log beside it (inode numbers)."""


def identity(path: Path) -> Identity:
    """Differs from what it was when somebody has deleted or replaced the file or its log."""
    return _inode(str(path)), _inode(f"{path}-wal")


def make(path: Path) -> None:
    """See that the file is there and that its owner alone can read it. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        with suppress(PermissionError):
            path.chmod(0o600)  # by its name: to open and close the file would drop this process's locks on it


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions; nothing is written by opening it. Raises `sqlite3.Error`."""
    return sqlite3.connect(path, isolation_level=None, timeout=_BUSY_PATIENCE)


def configure(connection: sqlite3.Connection) -> None:
    """Make it one for writing. Raises `sqlite3.Error`."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in an empty file only, so it goes first
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # what is committed outlives the process, not a power cut
    connection.execute("PRAGMA temp_store = MEMORY")


def open_readable(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises `sqlite3.Error`."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_PATIENCE, check_same_thread=False)


def part_from_log(path: Path, known: Identity) -> None:
    """The file that was `known` is gone from the path: if its log still lies there, delete it, or SQLite would pour it
    into the file that came in its place.
    """
    main, log = identity(path)
    if main != known[0] and log is not None and log == known[1]:
        for companion in _COMPANIONS:
            with suppress(OSError):
                Path(f"{path}{companion}").unlink()


def move_aside(path: Path) -> str:
    """Give a damaged file, and its log, a name with the time in it, and return that. Raises `OSError`."""
    aside = path.with_name(f"{path.stem}-damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    path.rename(aside)
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            Path(f"{path}{companion}").rename(f"{aside}{companion}")
    for old in sorted(path.parent.glob(f"{path.stem}-damaged-*{path.suffix}"))[:-_KEPT_ASIDE]:
        for name in (old, *(Path(f"{old}{companion}") for companion in _COMPANIONS)):
            name.unlink(missing_ok=True)
    return aside.name


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - once per commit, and Path takes three times as long
    except OSError:
        return None
