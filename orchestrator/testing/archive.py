"""The tar archive of plugin folders and API key. Apart from the container: tested without an engine."""

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from orchestrator.own_image.entrypoint import USER

MOUNT_POINT: Final = "/given"
"""Its folder in the container, with plugins/0, plugins/1, … and operator-key."""
_MAX_IN_MEMORY: Final = 8 * 1024 * 1024
_EXCLUDED: Final = frozenset({"__pycache__", ".git", ".venv", "node_modules"})


@contextmanager
def build_archive(plugins: Sequence[Path], api_key: str) -> Iterator[IO[bytes]]:
    """The archive as an open file. Raises `NotADirectoryError` for a plugin folder that is not a folder."""
    with tempfile.SpooledTemporaryFile(_MAX_IN_MEMORY) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number, folder in enumerate(plugins):
                if not folder.is_dir():
                    raise NotADirectoryError(f"{folder} is not a folder of plugins")
                root = tarfile.TarInfo(f"plugins/{number}")
                root.type, root.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(root)
                for entry in sorted(folder.iterdir()):
                    # A plugin's folder may be a link, as the orchestrator allows it.
                    archive.add(entry.resolve(), f"{root.name}/{entry.name}", filter=_readable_for_all)
            key = tarfile.TarInfo("operator-key")
            key.size, key.mode, key.uid, key.gid = len(api_key), 0o400, USER, USER
            archive.addfile(key, io.BytesIO(api_key.encode()))
        file.seek(0)
        yield file


def _readable_for_all(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(entry.name).name in _EXCLUDED:
        return None
    entry.uid = entry.gid = USER
    entry.mode |= 0o555 if entry.isdir() else 0o444  # plugins read their models as another user
    return entry
