"""Guests with Debian 13: cgroup v2, systemd, AppArmor, on any machine, by a kernel that runs as a program (`uml/`)."""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platforms import cache
from platforms.rooms import PROJECT, NotHadError, end_group

MEMORY = "5G"
UP_WITHIN = 400.0  # seconds; about 45 on an idle machine
GUEST_PROJECT = Path("/project")


@dataclass
class GuestRoom:
    """A guest's shell, reached through a folder that both see. `share` is that folder; the guest has it as /share."""

    share: Path
    console: Path
    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]
    user: str = "root"
    project: Path = GUEST_PROJECT
    _count: int = 0

    def run(self, command: Sequence[str], *, log: Path, seconds: float) -> int | None:
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        text = f"cd {self.project} && exec env {variables} PATH={self.project}/.venv/bin:$PATH {shlex.join(command)}"
        bound = f"timeout --signal=INT --kill-after=60 {seconds:.0f}"
        script = f"{bound} runuser --login {self.user} --command {shlex.quote(text)}"
        status = self.script(script, log=log, seconds=seconds + 120)
        for file in self.share.glob("out/*"):
            shutil.move(file, log.parent / file.name)
        return None if status in (124, 137) else status

    def script(self, text: str, *, log: Path, seconds: float) -> int | None:
        """Run a shell script as root; its output is added to `log`. Returns None if it took too long."""
        self._count += 1
        job = self.share / f"{self._count}"
        (job.with_suffix(".new")).write_text(text + "\n")
        job.with_suffix(".new").rename(job.with_suffix(".job"))
        end = time.monotonic() + seconds
        rc = job.with_suffix(".rc")
        while not rc.exists() and time.monotonic() < end:
            if self.process.poll() is not None:
                raise NotHadError(f"the guest ended: {_tail(self.console)}")
            time.sleep(0.5)
        with log.open("ab") as output:
            output.write(job.with_suffix(".log").read_bytes() if job.with_suffix(".log").exists() else b"")
        return int(rc.read_text()) if rc.exists() else None

    def inside(self, path: Path) -> str:
        """A file that a command writes there is moved beside the log when the command has ended."""
        return f"/share/out/{path.name}"


def _tail(file: Path) -> str:
    """The last lines, without what moves a terminal's cursor."""
    lines = file.read_text(errors="replace").splitlines()[-6:] if file.exists() else []
    return " / ".join("".join(filter(str.isprintable, line)).strip() for line in lines if line.strip())


@contextlib.contextmanager
def guest(
    engine: str, *, without: Sequence[str] = (), environment: Mapping[str, str] | None = None, user: str = "root"
) -> Iterator[GuestRoom]:
    """Boot a guest, with this checkout and the base image's archive, `/share/images.tar`; power it off at the end.

    `engine`: the script of `uml/engines` that provides it. `without`: units of systemd that do not start.
    """
    if os.geteuid() != 0:
        raise NotHadError("a guest's disk is made by root")
    cache.make("disk", 3600)
    folder = Path(tempfile.mkdtemp(prefix="platform-", dir="/var/tmp"))
    share, console = folder / "share", folder / "console"
    (share / "out").mkdir(parents=True)
    (share / "out").chmod(0o777)  # the guest's kernel is a process of root's; files are made by its own users
    shutil.copy(cache.save_images(), share / "images.tar")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    ).stdout
    there = b"\0".join(name for name in listed.split(b"\0") if (PROJECT / os.fsdecode(name)).is_file())
    subprocess.run(
        ["tar", "--create", "--file", share / "project.tar", "--null", "--files-from=-"],
        input=there,
        cwd=PROJECT,
        check=True,
    )
    masked = [f"systemd.mask={unit}" for unit in without]
    with console.open("wb") as output:
        process = subprocess.Popen(
            [PROJECT / "tests/platforms/uml/boot", cache.folder(), folder, MEMORY, *masked],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    room = GuestRoom(share, console, process, environment or {}, user)
    try:
        _wait_until_up(room)
        status = room.script(_CHECKOUT.format(user=user, engine=engine), log=folder / "prepare", seconds=UP_WITHIN * 2)
        if status != 0:
            raise NotHadError(f"in the guest, status {status}: {_tail(folder / 'prepare')}")
        yield room
    finally:
        (share / "off").touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        end_group(process, 5)
        shutil.rmtree(folder, ignore_errors=True)


_CHECKOUT = """
set -e
cd /project
find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name .venv-tools -exec rm -rf {{}} +
tar --extract --no-same-owner --file /share/project.tar
[ {user} = root ] || chown -R {user}: /project
exec tests/platforms/uml/engines/{engine}
"""
"""The disk has the environment; the files are those of now."""


def _wait_until_up(room: GuestRoom) -> None:
    end = time.monotonic() + UP_WITHIN
    while not (room.share / "up").exists():
        if room.process.poll() is not None:
            raise NotHadError(f"the guest did not boot: {_tail(room.console)}")
        if time.monotonic() > end:
            raise NotHadError(f"the guest is not up after {UP_WITHIN:.0f} s: {_tail(room.console)}")
        time.sleep(0.5)
