"""The database file on disk: create, connect, identify, move aside."""

import os
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

FILE_NAME: Final = "history.sqlite3"

_COMPANIONS: Final = ("-wal", "-shm")
_MAX_DAMAGED_FILES: Final = 3  # older ones are deleted, so that they never fill the disk
_LOCK_TIMEOUT: Final = 1.0  # seconds

FileIdentity = tuple[int | None, int | None]
"""The inode numbers of the file and of its write-ahead log."""


def file_identity(path: Path) -> FileIdentity:
    """Changes when another program deletes or replaces the file or its log."""
    return _inode(str(path)), _inode(f"{path}-wal")


def create(path: Path) -> None:
    """Create the file unless it exists, readable by its owner alone. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        # Before SQLite does, which makes files that others may read.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        with suppress(PermissionError):
            path.chmod(0o600)  # by its name: to open and close the file would drop this process's locks on it


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions; opening it writes nothing. Raises `sqlite3.Error`."""
    return sqlite3.connect(path, isolation_level=None, timeout=_LOCK_TIMEOUT)


def configure_for_writing(connection: sqlite3.Connection) -> None:
    """Raises `sqlite3.Error`."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in an empty file only, so it goes first
    # Readers and the writer do not wait for each other.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # what is committed outlives the process, not a power cut
    connection.execute("PRAGMA temp_store = MEMORY")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Raises `sqlite3.Error`."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_LOCK_TIMEOUT, check_same_thread=False)


def delete_stale_log(path: Path, known: FileIdentity) -> None:
    """Delete the write-ahead log that the removed file `known` left at the path."""
    main, log = file_identity(path)
    # SQLite would replay the old log into the file that replaced its own.
    if main != known[0] and log is not None and log == known[1]:
        for companion in _COMPANIONS:
            with suppress(OSError):
                Path(f"{path}{companion}").unlink()


def move_aside(path: Path) -> str:
    """Rename a damaged file and its log; returns the new name, which holds the time. Raises `OSError`."""
    aside = path.with_name(f"{path.stem}-damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    path.rename(aside)
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            Path(f"{path}{companion}").rename(f"{aside}{companion}")
    for old in sorted(path.parent.glob(f"{path.stem}-damaged-*{path.suffix}"))[:-_MAX_DAMAGED_FILES]:
        for name in (old, *(Path(f"{old}{companion}") for companion in _COMPANIONS)):
            name.unlink(missing_ok=True)
    return aside.name


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - once per commit, and Path takes three times as long
    except OSError:
        return None
