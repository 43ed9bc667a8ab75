"""Secrets that the operator provides for plugins: files, or variables of the orchestrator's own environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestratorError

_LONGEST: Final = 64 * 1024
"""Bytes: a key or a certificate, never a model."""


class SecretMissingError(OrchestratorError):
    """A secret that its plugin needs cannot be had; says what to do."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """`<folder>/<plugin>/<name>`, else the variable that `variable` names. Values are read when they are needed and
    kept nowhere.
    """

    folder: Path
    environment: Mapping[str, str]

    def read(self, plugin: str, name: str) -> bytes:
        """The value. Both names are a manifest's, so they are checked. Raises `SecretMissingError`."""
        try:
            with (self.folder / plugin / name).open("rb") as file:
                value = file.read(_LONGEST + 1)
        except (FileNotFoundError, NotADirectoryError):
            value = self.environment.get(variable(plugin, name), "").encode("utf-8", "surrogateescape")
        except OSError as error:
            raise SecretMissingError(_sentence(plugin, name, f"cannot be read: {error.strerror}")) from None
        if not value:
            raise SecretMissingError(_sentence(plugin, name, "is not provided"))
        if len(value) > _LONGEST:
            raise SecretMissingError(_sentence(plugin, name, f"is over {_LONGEST // 1024} KiB"))
        return value


def variable(plugin: str, name: str) -> str:
    """The variable that holds a secret. Each has its own: `-` becomes `__`, which a plugin's name cannot hold, and no
    secret's name begins with `_`.
    """
    return f"ORCHESTRATOR_SECRET_{plugin.upper().replace('-', '__')}_{name}"


def _sentence(plugin: str, name: str, what: str) -> str:
    return (
        f"The secret {name!r} {what}. Like a model, it is a file that the operator puts there (hence this code): "
        f"write it to <SECRETS_DIR>/{plugin}/{name}, or set {variable(plugin, name)} for the orchestrator, and "
        "restart."
    )
