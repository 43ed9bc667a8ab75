"""What an orchestrator in a test session is given: copies of plugins, its key, and what is simulated."""

import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from orchestrator.own_image.entrypoint import USER
from orchestrator.simulation.simulation import SimulationPlan
from orchestrator.testing.stand_in import StandIn

PLAN: Final = "simulation.json"
_MAX_IN_MEMORY: Final = 8 * 1024 * 1024
_EXCLUDED: Final = frozenset({"__pycache__", ".git", ".venv", "node_modules"})


@contextlib.contextmanager
def build_archive(
    plugins: Sequence[Path | StandIn], api_key: str, plan: SimulationPlan | None = None
) -> Iterator[IO[bytes]]:
    """The archive as an open file: plugins/0, plugins/1, …, operator-key and the plan. Raises `NotADirectoryError` for
    a plugin folder that is not a folder.
    """
    with tempfile.SpooledTemporaryFile(_MAX_IN_MEMORY) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number, folder in enumerate(plugins):
                root = f"plugins/{number}"
                _add_folder(archive, root)
                if isinstance(folder, StandIn):
                    _add_folder(archive, f"{root}/{folder.name}")
                    for name, text in folder.files().items():
                        _add_text(archive, f"{root}/{folder.name}/{name}", text, mode=0o644)
                    continue
                if not folder.is_dir():
                    raise NotADirectoryError(f"{folder} is not a folder of plugins")
                for entry in sorted(folder.iterdir()):
                    # A plugin's folder may be a link, as the orchestrator allows it.
                    archive.add(entry.resolve(), f"{root}/{entry.name}", filter=_readable_for_all)
            _add_text(archive, "operator-key", api_key, mode=0o400)
            if plan is not None:
                _add_text(archive, PLAN, json.dumps(plan.report()), mode=0o444)
        file.seek(0)
        yield file


def _add_folder(archive: tarfile.TarFile, name: str) -> None:
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o755, USER, USER
    archive.addfile(folder)


def _add_text(archive: tarfile.TarFile, name: str, text: str, *, mode: int) -> None:
    content = text.encode()
    file = tarfile.TarInfo(name)
    file.size, file.mode, file.uid, file.gid = len(content), mode, USER, USER
    archive.addfile(file, io.BytesIO(content))


def _readable_for_all(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(entry.name).name in _EXCLUDED:
        return None
    entry.uid = entry.gid = USER
    # Plugins read their models as another user; the orchestrator writes where a fault is in a folder.
    entry.mode |= 0o755 if entry.isdir() else 0o644
    return entry
