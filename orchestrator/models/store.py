"""ModelStore: the files by their SHA-256, and those that are not complete yet, with who fetches them.

    <root>/sha256/<hash>            complete and right; read-only, readable for all since containers mount it
    <root>/partial/<hash>           its beginning; locked (flock) as long as somebody fetches it
    <root>/partial/<hash>.json      where that came from

A file gets its name under `sha256` by a rename after its bytes were hashed and are on disk, and only by who holds the
lock on it. The kernel releases a lock however its holder ends, so a killed pull leaves nothing that needs clearing.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import msgspec

from orchestrator.errors import OrchestratorError
from orchestrator.models.plan import PartialFile, StoredFile
from orchestrator.settings import Settings

CHUNK: Final = 1024 * 1024
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class ModelStoreError(OrchestratorError):
    """The store cannot be read or written; the text says where and what to do. It has paths: for operators alone."""


class _Origin(msgspec.Struct, frozen=True):
    """What is known of a partial file. `url` as `shown_url`."""

    since: datetime
    url: str = ""
    validator: str = ""
    total: int | None = None


class ModelStore:
    """The store in the folder `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = root / "sha256"
        self._partials = root / "partial"

    def find(self, sha256: str) -> Path | None:
        """The complete file; None where the store does not have it."""
        path = self._files / sha256
        return path if path.is_file() else None

    def files(self) -> list[StoredFile]:
        """All complete files."""
        return [StoredFile(path.name, info.st_size) for path, info in _hashes(self._files)]

    def partials(self) -> list[PartialFile]:
        """All files that are not complete, except those of which the store has the whole one too."""
        found = (self.partial(path.name) for path, _ in _hashes(self._partials))
        return [partial for partial in found if partial is not None and self.find(partial.sha256) is None]

    def partial(self, sha256: str) -> PartialFile | None:
        """The file as far as it has come; None where nothing of it is here, or this process may not look."""
        try:
            descriptor = os.open(self._partials / sha256, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            info = os.fstat(descriptor)
            under_way = not _lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)
        origin = self._origin(sha256)
        return PartialFile(
            sha256,
            info.st_size,
            datetime.fromtimestamp(info.st_mtime, UTC),
            under_way,
            total=origin.total if origin else None,
            since=origin.since if origin else None,
            source=origin.url if origin else "",
        )

    def open_partial(self, sha256: str) -> "Partial | None":
        """The partial file, locked; None while somebody else has it. Raises `ModelStoreError`."""
        path = self._partials / sha256
        with self._explained():
            self._make_folders()
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                try:
                    if not _lock(descriptor, fcntl.LOCK_EX):
                        os.close(descriptor)
                        return None
                    # Who had it before may have finished or removed it: then this is no longer the file of that name.
                    if _same_file(descriptor, path):
                        self._make_readable(descriptor)
                        return Partial(self, sha256, descriptor, self._origin(sha256))
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)

    def remove(self, sha256: str) -> None:
        """Remove a complete file. Raises `ModelStoreError`."""
        with self._explained():
            (self._files / sha256).unlink(missing_ok=True)

    def remove_partial(self, sha256: str) -> bool:
        """Remove what there is of a file that is not complete; False where somebody fetches it. Raises
        `ModelStoreError`.
        """
        partial = self.open_partial(sha256)
        if partial is None:
            return False
        with partial:
            partial.discard()
        return True

    def sweep(self) -> None:
        """Remove notes about partial files that no longer exist."""
        with suppress(OSError):  # they are a few bytes, and whose they are is not for this process to say
            for note in (*self._partials.glob("*.json"), *self._partials.glob("*.new")):
                if not note.with_suffix("").exists():
                    note.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Free bytes of the store's disk. Raises `ModelStoreError`."""
        with self._explained():
            self._make_folders()
            return shutil.disk_usage(self.root).free

    # For `Partial`

    def publish(self, sha256: str) -> None:
        with self._explained():
            (self._partials / sha256).rename(self._files / sha256)
            _sync_folder(self._files)
            _sync_folder(self._partials)
            self._origin_file(sha256).unlink(missing_ok=True)

    def forget(self, sha256: str) -> None:
        with self._explained():
            self._origin_file(sha256).unlink(missing_ok=True)
            (self._partials / sha256).unlink(missing_ok=True)

    def write_origin(self, sha256: str, origin: _Origin) -> None:
        with self._explained():
            file = self._origin_file(sha256)
            new = file.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(origin))
            new.chmod(0o644)
            new.replace(file)

    def _origin(self, sha256: str) -> _Origin | None:
        try:
            return msgspec.json.decode(self._origin_file(sha256).read_bytes(), type=_Origin)
        except (OSError, msgspec.MsgspecError):
            return None

    def _origin_file(self, sha256: str) -> Path:
        return self._partials / f"{sha256}.json"

    def _make_folders(self) -> None:
        for folder in (self.root, self._files, self._partials):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o755)
                if os.geteuid() == 0:
                    owner = folder.parent.stat()
                    os.chown(folder, owner.st_uid, owner.st_gid)

    def _make_readable(self, descriptor: int) -> None:
        os.fchmod(descriptor, 0o644)  # whatever the umask: a container's user reads the file
        # Root pulls for an orchestrator that is not root and may pull the next time.
        if os.geteuid() == 0:
            owner = self._partials.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(self.root, error) from None


class Partial:
    """A partial file that this process alone may write, and the hash of its bytes. A context manager: leaving it
    releases the lock; what is there stays for the next pull.
    """

    def __init__(self, store: ModelStore, sha256: str, descriptor: int, origin: _Origin | None) -> None:
        self.sha256 = sha256
        self._store = store
        self._descriptor = descriptor
        self._origin = _Origin(datetime.now(UTC)) if origin is None else msgspec.structs.replace(
            origin, since=datetime.now(UTC)
        )  # fmt: skip
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes, all of them hashed."""
        self.whole = True
        """All of them are from one answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def url(self) -> str:
        """Where the latest bytes came from, as `shown_url`."""
        return self._origin.url

    @property
    def validator(self) -> str:
        return self._origin.validator

    @property
    def total(self) -> int | None:
        return self._origin.total

    @property
    def empty(self) -> bool:
        """Whether there is nothing to go on from, also where it has not been loaded."""
        with self._explained():
            return os.fstat(self._descriptor).st_size == 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def load(self, on_bytes: Callable[[int, int], None]) -> None:
        """Hash what an earlier pull left. `on_bytes` gets the bytes done and to do. Raises `ModelStoreError`."""
        with self._explained():
            self._store.write_origin(self.sha256, self._origin)
            to_do = os.fstat(self._descriptor).st_size
            while chunk := os.pread(self._descriptor, CHUNK, self.size):
                self._hash.update(chunk)
                self.size += len(chunk)
                on_bytes(self.size, max(self.size, to_do))

    def begin(self, url: str, validator: str, total: int | None, *, restart: bool) -> None:
        """Bytes from `url` (as `shown_url`) follow: those after the last one, or with `restart` the whole file. Raises
        `ModelStoreError`.
        """
        # In this order: a kill between the two leaves no bytes under the origin of others.
        if restart:
            self.rewind()
        self.whole = self.size == 0
        self._origin = _Origin(self._origin.since, url, validator, total)
        self._store.write_origin(self.sha256, self._origin)

    def append(self, chunk: bytes) -> None:
        """Raises `ModelStoreError`."""
        with self._explained():
            at = 0
            while at < len(chunk):
                at += os.pwrite(self._descriptor, chunk[at:], self.size + at)
        self._hash.update(chunk)
        self.size += len(chunk)

    def rewind(self) -> None:
        """Throw the bytes away. Raises `ModelStoreError`."""
        with self._explained():
            os.ftruncate(self._descriptor, 0)
        self._hash = hashlib.sha256()
        self.size = 0

    def publish(self) -> None:
        """Make it the store's file of its hash, which its bytes have. Raises `ModelStoreError`."""
        if self.digest != self.sha256:
            raise AssertionError("only right bytes get the name of their hash")
        with self._explained():
            os.ftruncate(self._descriptor, self.size)
            os.fsync(self._descriptor)
            self._store.publish(self.sha256)
            # Last: a pull that is killed before leaves a file that the next one may open for writing.
            os.fchmod(self._descriptor, 0o444)

    def discard(self) -> None:
        """Remove it. Raises `ModelStoreError`."""
        self._store.forget(self.sha256)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(self._store.root, error) from None


def model_store(settings: Settings) -> ModelStore:
    """The store that these settings say."""
    # A folder in MODELS_DIR that no plugin can have for a name.
    return ModelStore(settings.models_dir / ".store" if settings.models_dir else settings.state_dir / "models")


def hash_file(path: Path, on_bytes: Callable[[int, int], None]) -> str:
    """The SHA-256 of a file, as `on_bytes` gets the bytes done and to do. Raises `OSError`."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        to_do = os.fstat(file.fileno()).st_size
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            on_bytes(done, max(done, to_do))
    return digest.hexdigest()


def store_error(root: Path, error: OSError) -> ModelStoreError:
    """An error of the system while the store was read or written."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelStoreError(
            f"The disk of the model store {root} is full ({what}). Free space, or set ORCHESTRATOR_MODELS_DIR to a"
            " larger disk; a pull then goes on where it stopped."
        )
    return ModelStoreError(
        f"The model store {root} cannot be used: {what}. Run this as the owner of that folder, or set"
        " ORCHESTRATOR_MODELS_DIR to another."
    )


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was free. It ends with the descriptor."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _hashes(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The regular files that have a hash for a name."""
    found = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if _HASH.fullmatch(path.name):
                with suppress(OSError):  # removed meanwhile
                    info = path.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        found.append((path, info))
    return found


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
