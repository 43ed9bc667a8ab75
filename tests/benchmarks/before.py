"""An earlier commit of this project, beside which today's code is measured."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_PLUGIN = Path(__file__).with_name("plugin")


@dataclass(frozen=True)
class Earlier:
    """`environment`: variables by which Python imports that commit; `image`: the benchmark plugin's, built by it."""

    folder: Path
    environment: Mapping[str, str]
    image: str


@contextmanager
def earlier(commit: str) -> Iterator[Earlier]:
    """Unpack `commit` into a temporary folder. It uses the packages installed now, and today's benchmark plugin.

    Raises `CalledProcessError`.
    """
    packed = subprocess.run(["git", "archive", commit], cwd=PROJECT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory(prefix="bench-before-") as name:
        folder = Path(name)
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(folder)
        shutil.copytree(_PLUGIN, folder / _PLUGIN.relative_to(PROJECT), dirs_exist_ok=True)
        paths = (folder, folder / "plugin-images" / "runtime" / "src", folder / "tests")
        environment = {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        build = [sys.executable, "-c", "from benchmarks.bench import build_image; print(build_image())"]
        built = subprocess.run(
            build, cwd=folder, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
        )
        yield Earlier(folder, environment, built.stdout.split()[-1])
