"""A folder as the tar stream that a build takes."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

_PIECE = 256 * 1024


def tar_stream(folder: Path) -> Iterator[bytes]:
    """`folder` as a tar archive, piece by piece; never more than one piece is in memory.

    Owners, modes and times are made plain: everything is root's and can be read by all, so that a file of mode 0600
    here is readable by the plugin's user there, and Docker's layer cache takes equal content for equal. Symbolic links
    go as links.
    """
    for path in sorted(folder.rglob("*")):
        member = _member(path, path.relative_to(folder).as_posix())
        if member is None:
            continue
        yield member.tobuf(tarfile.PAX_FORMAT)
        if member.isreg():
            yield from _content(path, member.size)
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def _member(path: Path, name: str) -> tarfile.TarInfo | None:
    told = path.lstat()
    member = tarfile.TarInfo(name)
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif path.is_file():
        member.size, member.mode = told.st_size, 0o755 if told.st_mode & 0o100 else 0o644
    else:
        return None  # sockets, pipes and devices
    return member


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise OSError(f"{path.name} became shorter while it was being read")
            left -= len(piece)
            yield piece
    yield b"\0" * (-size % tarfile.BLOCKSIZE)
