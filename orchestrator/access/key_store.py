"""The keys of a state folder: keys.json, which the command line writes and the running orchestrator follows."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from orchestrator.access.keys import ApiKey, KeyRing, Role, issue
from orchestrator.errors import OrchestratorError

FILE: Final = "keys.json"
_LOOK: Final = 1.0
"""Seconds between looks whether the file has changed."""
_MOST_BYTES: Final = 1024 * 1024
_MOST_KEYS: Final = 1000
"""Each is held against what a caller sends."""

_log = logging.getLogger(__name__)


class KeyFileError(OrchestratorError):
    """The file of keys cannot be read or written, or is none."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    role: Role
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    hint: str
    created: AwareDatetime
    expires: AwareDatetime | None = None


class _File(BaseModel):
    version: int = 1
    keys: list[_Kept] = []


class KeyStore:
    """`given`: keys that come from settings and count beside those of the file."""

    def __init__(self, state_dir: Path, given: Iterable[ApiKey] = (), clock: Callable[[], float] = monotonic) -> None:
        self._path = state_dir / FILE
        self._given = tuple(given)
        self._clock = clock
        self._looked = -_LOOK
        self._seen: tuple[int, ...] | None = None
        self._ring = KeyRing(self._given)
        self._complained = False

    def ring(self) -> KeyRing:
        """The keys that count now; what the command line changed counts within a second. A file that cannot be read
        changes nothing: to take it for none would open the door.
        """
        now = self._clock()
        if now - self._looked >= _LOOK:
            self._looked = now
            try:
                self.load()
            except KeyFileError as error:
                if not self._complained:
                    _log.error("%s The keys stay as they were.", error)
                self._complained = True
            else:
                self._complained = False
        return self._ring

    def load(self) -> KeyRing:
        """As `ring`, at once. Raises `KeyFileError`."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._ring = KeyRing((*self._given, *self.listed()))
            self._seen = stamp
        return self._ring

    def listed(self) -> list[ApiKey]:
        """The keys of the file, oldest first. Raises `KeyFileError`."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(f"The keys in {self._path} cannot be read: {error.strerror}.") from None
        try:
            kept = _File.model_validate_json(text).keys
        except ValidationError:
            raise KeyFileError(
                f"{self._path} does not hold API keys. Move it away and make new keys with `orchestrator keys add`."
            ) from None
        return [ApiKey(**dict(key)) for key in kept]

    def add(self, name: str, role: Role, expires: datetime | None = None) -> str:
        """Make a key and keep it; returns it, this once. Raises `ValueError`, `KeyFileError`."""
        text, key = issue(name, role, datetime.now(UTC), expires)
        with self._locked():
            keys = self.listed()
            if any(other.name == name for other in keys):
                raise ValueError(f"there is a key {name!r} already; remove it first or take another name")
            if len(keys) >= _MOST_KEYS:
                raise ValueError(f"there are {_MOST_KEYS} keys already; remove those that nobody uses")
            self._write([*keys, key])
        return text

    def remove(self, name: str) -> bool:
        """Whether there was such a key. Raises `KeyFileError`."""
        with self._locked():
            keys = self.listed()
            rest = [key for key in keys if key.name != name]
            if len(rest) < len(keys):
                self._write(rest)
        return len(rest) < len(keys)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """So that two commands at once lose nobody's key."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(self._path.with_suffix(".lock"), timeout=10)
            lock.acquire()
        except OSError as error:
            raise KeyFileError(
                f"The keys in {self._path.parent} cannot be changed: {error.strerror or 'another command holds them'}."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _write(self, keys: list[ApiKey]) -> None:
        """Whole or not at all; for the owner of the folder alone."""
        text = json.dumps({"version": 1, "keys": [_fields(key) for key in keys]}, indent=1) + "\n"
        folder = self._path.parent
        try:
            descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{FILE}.")  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(descriptor)
                    owner = folder.stat()
                    if os.geteuid() == 0:  # root adds a key for an orchestrator that is not root
                        os.fchown(descriptor, owner.st_uid, owner.st_gid)
                Path(temporary).replace(self._path)
            except BaseException:
                with suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError as error:
            raise KeyFileError(f"The keys cannot be written to {folder}: {error.strerror}.") from None

    def _stamp(self) -> tuple[int, ...]:
        try:
            info = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise KeyFileError(f"The keys in {self._path} cannot be read: {error.strerror}.") from None
        return (info.st_ino, info.st_mtime_ns, info.st_size)


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "role": key.role,
        "sha256": key.sha256,
        "hint": key.hint,
        "created": key.created.isoformat(),
        "expires": key.expires and key.expires.isoformat(),
    }
