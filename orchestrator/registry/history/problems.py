"""What went wrong with the history, as a sentence: what, where, what to do. Pure."""

import sqlite3
from typing import Final

from orchestrator.registry.history.schema import NewerFileError

FILE_NAME: Final = "history.sqlite3"
_WHERE: Final = f"{FILE_NAME} in the state folder (ORCHESTRATOR_STATE_DIR)"

_CAUSES: Final = {
    sqlite3.SQLITE_FULL: "The disk of {where} is full. Make room on it.",
    sqlite3.SQLITE_IOERR: "The disk refused to take {where}: it is full, broken, or at a limit. Make room, and look at "
    "the kernel's messages.",
    sqlite3.SQLITE_READONLY: "{where} may not be written. Make the folder and the file writable to the orchestrator.",
    sqlite3.SQLITE_PERM: "{where} may not be written. Make the folder and the file writable to the orchestrator.",
    sqlite3.SQLITE_CANTOPEN: "{where} cannot be opened. Make the folder and the file writable to the orchestrator.",
    sqlite3.SQLITE_BUSY: "Another program holds {where} locked. End that program.",
    sqlite3.SQLITE_LOCKED: "Another program holds {where} locked. End that program.",
    sqlite3.SQLITE_CORRUPT: "{where} is damaged. It is moved aside and a new one begun as soon as that can be done.",
    sqlite3.SQLITE_NOTADB: "{where} is damaged. It is moved aside and a new one begun as soon as that can be done.",
}
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DEFECTS: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
_AFTER: Final = "Runs go on meanwhile, and writing is tried again by itself."

SILENT_DISK: Final = (
    f"History is not being written. The disk of {_WHERE} does not answer. Look at the disk and the kernel's messages. "
    f"{_AFTER}"
)


def not_written(error: Exception) -> str:
    """Why history is not being written."""
    return f"History is not being written. {_cause(error)} {_AFTER}"


def not_read(error: Exception) -> str:
    """Why history cannot be read."""
    return f"History cannot be read. {_cause(error)} It is tried again with every question."


def damaged(error: Exception) -> bool:
    """The file is no SQLite file, or not a whole one."""
    return _code(error) in _DAMAGE


def storage_fault(error: Exception) -> bool:
    """The fault lies with the file or the disk; otherwise with what was to be written."""
    return isinstance(error, OSError | NewerFileError) or (
        isinstance(error, sqlite3.Error) and not isinstance(error, _DEFECTS)
    )


def _code(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _cause(error: Exception) -> str:
    if isinstance(error, NewerFileError):
        return (
            f"{_WHERE} was written by a newer orchestrator ({error}). Run that one, or move the file away to begin "
            "anew."
        )
    if isinstance(error, OSError):
        return f"{_WHERE} cannot be used: {error.strerror}. Look at disk space and permissions."
    cause = _CAUSES.get(_code(error) or 0)
    return cause.format(where=_WHERE) if cause else f"{_WHERE} cannot be used: {error}."
