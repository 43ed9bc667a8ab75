"""The keys that an operator has configured: those of the state folder, and those of files that settings name."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orchestrator.access.key_store import KeyFileError, KeyStore
from orchestrator.access.keys import ApiKey, Role, keep
from orchestrator.settings import Settings

_LONGEST: Final = 4096


def key_store(settings: Settings) -> KeyStore:
    """Raises `KeyFileError` where a file that settings name holds no key."""
    files = ((Role.OPERATOR, settings.operator_key_file), (Role.VIEWER, settings.viewer_key_file))
    return KeyStore(settings.state_dir, [_read(role, path) for role, path in files if path is not None])


def _read(role: Role, path: Path) -> ApiKey:
    variable = f"ORCHESTRATOR_{role.upper()}_KEY_FILE"
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode("ascii").strip()
        return keep(text, f"{role}-key-file", role, datetime.now(UTC))
    except OSError as error:
        raise KeyFileError(f"{variable}: {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        sentence = "expected ASCII text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise KeyFileError(f"{variable}: {path}: {sentence}.") from None
