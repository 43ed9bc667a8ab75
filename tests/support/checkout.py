"""A copy of this checkout, for what must not be tried on itself."""

import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def copy_checkout(folder: Path) -> None:
    """Put into `folder` what is under version control or would be with the next commit; times and modes as they are."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for listed in subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.split(b"\0"):
        source, copy = PROJECT / os.fsdecode(listed), folder / os.fsdecode(listed)
        if source.is_file():  # one that is deleted is listed until that is committed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
