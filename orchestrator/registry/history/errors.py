"""SQLite's and the operating system's errors: which kind they are, and their text for the operator. Pure."""

import sqlite3
from typing import Final

from orchestrator.registry.history.database_file import FILE_NAME

_FILE: Final = f"{FILE_NAME} in the state folder (ORCHESTRATOR_STATE_DIR)"

_CAUSES: Final = {
    sqlite3.SQLITE_FULL: "The disk of {file} is full. Free space on it.",
    sqlite3.SQLITE_IOERR: "The disk refused to write {file}: it is full, broken, or at a limit. Free space, and check "
    "the kernel's messages.",
    sqlite3.SQLITE_READONLY: "{file} is not writable. Make the folder and the file writable to the orchestrator.",
    sqlite3.SQLITE_PERM: "{file} is not writable. Make the folder and the file writable to the orchestrator.",
    sqlite3.SQLITE_CANTOPEN: "{file} cannot be opened. Make the folder and the file writable to the orchestrator.",
    sqlite3.SQLITE_BUSY: "Another program has locked {file}. Stop that program.",
    sqlite3.SQLITE_LOCKED: "Another program has locked {file}. Stop that program.",
    sqlite3.SQLITE_CORRUPT: "{file} is damaged. It will be moved aside and a new one started as soon as possible.",
    sqlite3.SQLITE_NOTADB: "{file} is damaged. It will be moved aside and a new one started as soon as possible.",
}
_CORRUPTION: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# Of a value, or of our own code: no retry helps.
_DEFECTS: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
_MEANWHILE: Final = "Runs continue meanwhile, and writing is retried automatically."

DISK_SILENT: Final = (
    f"History is not being written. The disk of {_FILE} does not respond. Check the disk and the kernel's messages. "
    f"{_MEANWHILE}"
)


class NewerDatabaseError(Exception):
    """A newer program wrote the file; it has tables that this one does not know."""


def write_problem(error: Exception) -> str:
    """Why history is not being written."""
    return f"History is not being written. {_cause(error)} {_MEANWHILE}"


def read_problem(error: Exception) -> str:
    """Why history cannot be read."""
    return f"History cannot be read. {_cause(error)} Every query tries again."


def is_corruption(error: Exception) -> bool:
    """The file is no SQLite file, or a broken one."""
    return _code(error) in _CORRUPTION


def is_storage_fault(error: Exception) -> bool:
    """The file or the disk is at fault, not the value to be written."""
    return isinstance(error, OSError | NewerDatabaseError) or (
        isinstance(error, sqlite3.Error) and not isinstance(error, _DEFECTS)
    )


def _code(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None  # an extended code has the primary one in its low byte


def _cause(error: Exception) -> str:
    if isinstance(error, NewerDatabaseError):
        return (
            f"A newer orchestrator wrote {_FILE}: {error}. Run that version, or move the file away to start a new one."
        )
    if isinstance(error, OSError):
        return f"{_FILE} cannot be used: {error.strerror}. Check disk space and permissions."
    cause = _CAUSES.get(_code(error) or 0)
    return cause.format(file=_FILE) if cause else f"{_FILE} cannot be used: {error}."
