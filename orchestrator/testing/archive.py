"""What the orchestrator's container is given by a test, as one archive: the plugins' folders and the API key."""

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from orchestrator.own_image.entrypoint import USER

GIVEN: Final = "/given"
"""Where it is in the container: plugins/0, plugins/1, … and operator-key."""
_IN_MEMORY: Final = 8 * 1024 * 1024
_LEFT_OUT: Final = frozenset({"__pycache__", ".git", ".venv", "node_modules"})


@contextmanager
def given_files(plugins: Sequence[Path], api_key: str) -> Iterator[IO[bytes]]:
    """A tar of it. Raises `NotADirectoryError` for a plugin folder that is none."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number, folder in enumerate(plugins):
                if not folder.is_dir():
                    raise NotADirectoryError(f"{folder} is no folder of plugins")
                place = tarfile.TarInfo(f"plugins/{number}")
                place.type, place.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(place)
                for entry in sorted(folder.iterdir()):  # a plugin's folder may be a link, as for the orchestrator
                    archive.add(entry.resolve(), f"{place.name}/{entry.name}", filter=_for_the_orchestrator)
            key = tarfile.TarInfo("operator-key")
            key.size, key.mode, key.uid, key.gid = len(api_key), 0o400, USER, USER
            archive.addfile(key, io.BytesIO(api_key.encode()))
        file.seek(0)
        yield file


def _for_the_orchestrator(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Readable for all: plugins read their models as another user."""
    if Path(entry.name).name in _LEFT_OUT:
        return None
    entry.uid = entry.gid = USER
    entry.mode |= 0o555 if entry.isdir() else 0o444
    return entry
