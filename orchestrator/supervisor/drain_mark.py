"""DrainMark: whether an operator has this host drained. A file in the state folder, so that it outlives restarts."""

import os
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestratorError

_NAME: Final = "drained"


class DrainMarkError(OrchestratorError):
    """The mark cannot be written; nothing has changed."""


class DrainMark:
    """It changes nothing on this host: a front gives a drained host nothing new, and has its plugins moved."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the state folder."""
        self._path = folder / _NAME
        self._drained = self._path.exists()

    @property
    def drained(self) -> bool:
        return self._drained

    def put(self, *, drained: bool) -> None:
        """Returns when it is on the disk. Raises `DrainMarkError`."""
        try:
            if drained:
                self._path.touch()
            else:
                self._path.unlink(missing_ok=True)
            descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DrainMarkError(
                f"Whether this host is drained cannot be written to the state folder: {error.strerror}. Make room "
                "there, or correct its permissions."
            ) from None
        self._drained = drained
