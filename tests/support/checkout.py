"""A copy of this checkout, for tests that must not change the original."""

import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TESTS = PROJECT / "tests"


def copy_checkout(folder: Path) -> None:
    """Copy all tracked and new files that git does not ignore into `folder`, with their times and modes."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for listed in subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.split(b"\0"):
        source, copy = PROJECT / os.fsdecode(listed), folder / os.fsdecode(listed)
        if source.is_file():  # a deleted file is listed until its deletion is committed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
