"""The folder of the sockets: where it is by default, and whether it outlives a logout of its user.

logind makes /run/user/UID at a user's first login and removes it, with all that is in it, at the end of the last
session, unless the user lingers. An orchestrator that was started in a session outlives it, and its sockets would not.
"""

import os
import pwd
import warnings
from pathlib import Path
from typing import Final

import platformdirs

APP: Final = "plugin-orchestrator"
SOCKET_PATH_LIMIT: Final = 107
"""Maximum length in bytes of a Unix socket's path (Linux, sockaddr_un)."""
MAX_LENGTH: Final = SOCKET_PATH_LIMIT - len("/01234567/01234567/control.sock")
"""Bytes of the folder's path: below it are deployment, instance, socket."""
SESSIONS: Final = Path("/run/user")
LINGERING: Final = Path("/var/lib/systemd/linger")
"""Has a file for each user who lingers."""


def default_run_dir(state_dir: Path) -> Path:
    """The folder of the user's sessions where that stays, else one in the state folder if its path is short enough."""
    of_session = _runtime_path()
    if not goes_with_session(of_session):
        # Once used, the other one stays in use: running plugins have their sockets in it.
        return state_dir / "run" if _of_session(of_session) and (state_dir / "run").is_dir() else of_session
    if _in_use(of_session) or len(os.fsencode(state_dir / "run")) > MAX_LENGTH:
        return of_session
    return state_dir / "run"


def logout_warning(folder: Path) -> str | None:
    """Why plugins with their sockets there end at a logout of this user, and what to do; None where they do not."""
    if not goes_with_session(folder):
        return None
    return (
        f"{folder} is removed when this user's last session ends, and every plugin ends with it. Run `loginctl "
        "enable-linger`, or set ORCHESTRATOR_RUN_DIR to a folder that stays"
    )


def goes_with_session(folder: Path) -> bool:
    """Whether logind removes the folder at the end of this user's last session."""
    return _of_session(folder) and not lingers()


def session_ended(folder: Path) -> bool:
    """Whether logind has removed the folder."""
    return _of_session(folder) and not _session_folder().is_dir()


def lingers() -> bool:
    """Whether this user's sessions go on after a logout (`loginctl enable-linger`)."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
    return (LINGERING / name).exists()


def _session_folder() -> Path:
    return SESSIONS / str(os.getuid())


def _of_session(folder: Path) -> bool:
    return folder.is_relative_to(_session_folder())


def _in_use(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _runtime_path() -> Path:
    with warnings.catch_warnings():  # it warns where XDG_RUNTIME_DIR is not set; a folder under /tmp is right then
        warnings.simplefilter("ignore")
        return platformdirs.user_runtime_path(APP, use_site_for_root=True)
