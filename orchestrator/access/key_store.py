"""KeyStore: keys.json in the state folder, which the command line writes and the running orchestrator rereads."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final, Self

from filelock import FileLock
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from orchestrator.access.keys import ApiKey, KeyRing, Role, issue, proxy_user, stored_key
from orchestrator.access.principal import (
    EQUAL_SHARE,
    EVERY_PLUGIN,
    MAX_WEIGHT,
    Grant,
    Priority,
    Rate,
    Right,
    Share,
    plugin_patterns,
)
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings

FILE: Final = "keys.json"
_CHECK_INTERVAL: Final = 1.0  # minimum seconds between two checks whether the file has changed
_MAX_BYTES: Final = 1024 * 1024
_MAX_KEYS: Final = 1000  # every request is compared with all of them
_MAX_KEY_FILE_BYTES: Final = 4096

_log = logging.getLogger(__name__)


class KeyFileError(OrchestratorError):
    """A file of keys cannot be read or written, or does not hold keys."""


def _rate(value: Any) -> Any:
    return Rate.parse(value) if isinstance(value, str) else value


class _StoredKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    role: Role | None = None
    """Instead of `rights`, where they are those of a role."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    hint: str
    created: AwareDatetime
    expires: AwareDatetime | None = None
    rights: Annotated[list[Right], Field(min_length=1)] | None = None
    plugins: Annotated[tuple[str, ...], Field(min_length=1)] = EVERY_PLUGIN
    priority: Priority = EQUAL_SHARE.priority
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = EQUAL_SHARE.weight
    concurrency: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[Rate | None, BeforeValidator(_rate)] = None
    by_proxy: bool = False

    @model_validator(mode="after")
    def _role_or_rights(self) -> Self:
        if (self.role is None) is (self.rights is None):
            raise ValueError("expected either a role or rights")
        plugin_patterns(",".join(self.plugins))
        return self

    def key(self) -> ApiKey:
        rights = self.role.rights if self.role else frozenset(self.rights or ())
        share = Share(self.priority, self.weight, self.concurrency, self.rate)
        grant = Grant(rights, self.plugins, share)
        return ApiKey(self.name, grant, self.sha256, self.hint, self.created, self.expires, self.by_proxy)


class _File(BaseModel):
    version: int = 1
    keys: list[_StoredKey] = []


class KeyStore:
    """`given`: keys from settings, valid in addition to those of the file. `clock`: monotonic, in seconds."""

    def __init__(self, state_dir: Path, given: Iterable[ApiKey] = (), clock: Callable[[], float] = monotonic) -> None:
        self._path = state_dir / FILE
        self._given = tuple(given)
        self._clock = clock
        self._checked = -_CHECK_INTERVAL
        self._seen: tuple[int, ...] | None = None
        self._ring = KeyRing(self._given)
        self._logged = False

    def ring(self) -> KeyRing:
        """The keys that are valid now; a change by the command line counts within a second."""
        now = self._clock()
        if now - self._checked >= _CHECK_INTERVAL:
            self._checked = now
            try:
                self.load()
            except KeyFileError as error:
                # The keys stay: without any, everyone could call.
                if not self._logged:
                    _log.error("%s The keys that were read before stay valid.", error)
                self._logged = True
            else:
                self._logged = False
        return self._ring

    def load(self) -> KeyRing:
        """The keys as the file has them at this moment. Raises `KeyFileError`."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._ring = KeyRing((*self._given, *self.listed()))
            self._seen = stamp
        return self._ring

    def listed(self) -> list[ApiKey]:
        """The keys of the file, oldest first. Raises `KeyFileError`."""
        try:
            with self._path.open("rb") as file:
                # Of a longer file a piece, which is no JSON.
                text = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(f"The keys in {self._path} cannot be read: {error.strerror}.") from None
        try:
            stored = _File.model_validate_json(text).keys
        except ValidationError:
            raise KeyFileError(
                f"{self._path} does not hold API keys. Move it away, then make new keys with `orchestrator keys add`."
            ) from None
        return [key.key() for key in stored]

    def add(self, name: str, granted: Role | Grant, expires: datetime | None = None) -> str:
        """Make and store a key. Returns its text, which cannot be read again. Raises `ValueError`, `KeyFileError`."""
        text, key = issue(name, granted, datetime.now(UTC), expires)
        self._add(key)
        return text

    def add_user(self, name: str, granted: Role | Grant, expires: datetime | None = None) -> None:
        """Store a user that trusted proxies name. Raises `ValueError`, `KeyFileError`."""
        self._add(proxy_user(name, granted, datetime.now(UTC), expires))

    def _add(self, key: ApiKey) -> None:
        name = key.name
        with self._locked():
            keys = self.listed()
            if any(other.name == name for other in keys):
                raise ValueError(f"a key {name!r} already exists; remove it first, or use another name")
            if len(keys) >= _MAX_KEYS:
                raise ValueError(f"the maximum of {_MAX_KEYS} keys already exist; remove unused ones")
            self._write([*keys, key])

    def change(self, name: str, changed: Callable[[ApiKey], ApiKey]) -> ApiKey | None:
        """Replace the key by `changed` of it. Returns the new one, None where there is no such key. Raises
        `KeyFileError`, and what `changed` raises.
        """
        with self._locked():
            keys = self.listed()
            at = next((at for at, key in enumerate(keys) if key.name == name), None)
            if at is None:
                return None
            keys[at] = changed(keys[at])
            self._write(keys)
            return keys[at]

    def remove(self, name: str) -> bool:
        """Remove the key. Returns whether it existed. Raises `KeyFileError`."""
        with self._locked():
            keys = self.listed()
            rest = [key for key in keys if key.name != name]
            if len(rest) < len(keys):
                self._write(rest)
        return len(rest) < len(keys)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Two commands at once would overwrite each other's change.
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
        # By rename, so that a crash leaves the old file or the new one. Readable by the folder's owner alone.
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
        # The inode too, which each change replaces: the time may be the same.
        return (info.st_ino, info.st_mtime_ns, info.st_size)


def configured_keys(settings: Settings) -> KeyStore:
    """The keys of the state folder and of the files that settings name. Raises `KeyFileError` if one holds no key."""
    files = ((Role.OPERATOR, settings.operator_key_file), (Role.VIEWER, settings.viewer_key_file))
    return KeyStore(settings.state_dir, [_read_key_file(role, path) for role, path in files if path is not None])


def _read_key_file(role: Role, path: Path) -> ApiKey:
    variable = f"ORCHESTRATOR_{role.upper()}_KEY_FILE"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_KEY_FILE_BYTES).decode("ascii").strip()
        return stored_key(text, f"{role}-key-file", role, datetime.now(UTC))
    except OSError as error:
        raise KeyFileError(f"{variable}: {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        sentence = "expected ASCII text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise KeyFileError(f"{variable}: {path}: {sentence}.") from None


def _fields(key: ApiKey) -> dict[str, Any]:
    """What is as it always was takes the form that it always had: older programs read it."""
    grant, share = key.grant, key.grant.share
    return {
        "name": key.name,
        **({"role": key.role} if key.role else {"rights": sorted(grant.rights)}),
        "sha256": key.sha256,
        "hint": key.hint,
        "created": key.created.isoformat(),
        "expires": key.expires and key.expires.isoformat(),
        **({} if grant.sees_every_plugin else {"plugins": grant.plugins}),
        **({} if share.priority is EQUAL_SHARE.priority else {"priority": share.priority}),
        **({} if share.weight == EQUAL_SHARE.weight else {"weight": share.weight}),
        **({} if share.concurrency is None else {"concurrency": share.concurrency}),
        **({} if share.rate is None else {"rate": str(share.rate)}),
        **({"by_proxy": True} if key.by_proxy else {}),
    }
