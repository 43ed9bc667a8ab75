"""Downloads: a file's way from the orchestrator to memory or disk, across broken connections. Nothing is sent here."""

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

from orchestrator.client.errors import FileNotSaved, UnexpectedAnswer, Unreachable
from orchestrator.client.transport import Request

_MAX_BREAKS: Final = 6
"""Breaks in a row of which only the first came after some bytes; about half a minute with the pauses."""
_PAUSE: Final = 0.5
"""Seconds after the first of them; each further one doubles it."""
_READ_TIMEOUT: Final = 60.0
_MAX_NAME: Final = 120
"""Bytes of a file's name: file systems take 255, and a folder may add some of its own."""


class _Referenced(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def __getitem__(self, key: str, /) -> str: ...


class Download:
    """One file on its way into `sink`.

    A client sends `next()` until that is None, each within `attempt()`, and feeds it what comes back.
    """

    def __init__(self, file: _Referenced, sink: IO[bytes]) -> None:
        self._file = file
        self._sink = sink
        self._hash = hashlib.sha256()
        self._have = 0
        self._breaks = 0
        self._done = False

    def next(self) -> Request | None:
        """The request for what is missing; None once the file is whole."""
        if self._done:
            return None
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}  # as it is: parts of a compressed one do not fit
        if self._have:
            headers |= {"Range": f"bytes={self._have}-", "If-Range": f'"{self._file.sha256}"'}
        delay = _PAUSE * 2 ** (self._breaks - 1) if self._breaks else 0.0
        return Request("GET", self._file["url"], headers=headers, read_timeout=_READ_TIMEOUT, delay=delay)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """One request and its answer. A broken connection is an error only if it cannot be taken up again."""
        before = self._have
        try:
            yield
            self._finish()
        except Unreachable:
            self._breaks = 1 if self._have > before else self._breaks + 1
            if not self._have or self._breaks > _MAX_BREAKS:
                raise

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer's head."""
        if status == 206:
            if headers.get("content-range", "").startswith(f"bytes {self._have}-"):
                return
            raise UnexpectedAnswer(f"The answer is another part of {self._file.name} than requested.", status=status)
        if self._have:  # all of it again
            self._sink.seek(0)
            self._sink.truncate()
            self._hash, self._have = hashlib.sha256(), 0

    def feed(self, chunk: bytes) -> None:
        self._have += len(chunk)
        if self._have > self._file.size:
            raise UnexpectedAnswer(f"{self._file.name} is larger than the {self._file.size} bytes that were announced.")
        self._hash.update(chunk)
        self._sink.write(chunk)

    def _finish(self) -> None:
        if self._have < self._file.size:
            raise Unreachable(f"The connection broke before the end of {self._file.name}.")
        if self._hash.hexdigest() != self._file.sha256:
            raise UnexpectedAnswer(f"{self._file.name} arrived with another SHA-256 than was announced.")
        self._done = True


@contextmanager
def on_disk(file: _Referenced, path: str | os.PathLike[str], *, replace: bool) -> Iterator[tuple[Download, Path]]:
    """The download to `path`, or into the folder `path` under the file's own name; and where that is. A path that ends
    in `/` is a folder, which is made where it does not exist.
    """
    target = Path(path)
    if os.fspath(path).endswith("/"):  # a folder, whether it exists yet or not
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileNotSaved(f"Cannot make the folder {path}: {error.strerror or error}") from error
    if target.is_dir():
        target /= safe_name(file.name)
    with whole_file(target, replace=replace) as sink:
        yield Download(file, sink), target


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file that is at `path` once the block has ended, whole, and else not at all. Raises `FileNotSaved`."""
    try:
        if not replace and os.path.lexists(path):
            raise FileExistsError(None, "it exists")
        if path.exists() and not path.is_file():  # a device or a pipe is written to, not replaced
            with path.open("wb") as sink:
                yield sink
            return
        path = path.resolve()  # of a link, what it leads to is replaced
        unfinished = path.with_name(f".{secrets.token_hex(6)}.part")
        try:
            with unfinished.open("xb") as sink:
                yield sink
            if replace:
                unfinished.replace(path)
            else:
                rename_to_new(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FileNotSaved(f"Cannot write {path}: {error.strerror or error}") from error


def rename_to_new(unfinished: Path, path: Path) -> None:
    """Raises `FileExistsError` if another program has made `path` in the meantime."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(None, "it exists") from None
        unfinished.replace(path)


def safe_name(name: str) -> str:
    """A name from a plugin as that of a file: it leads nowhere else, hides nothing and fits every file system."""
    letters = name.rpartition("/")[2]
    # Marks belong to the letters of many scripts, and are none of `\w`.
    known = (one if unicodedata.category(one)[0] in "LMN" or one in "_.+-" else " " for one in letters)
    plain = re.sub(" +", "_", "".join(known)).lstrip(".") or "file"
    stem, dot, suffix = plain.rpartition(".")
    if not stem or len(suffix) > _MAX_NAME // 4:
        stem, dot, suffix = plain, "", ""
    room = _MAX_NAME - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + suffix
