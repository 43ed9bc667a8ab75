"""Secrets that the operator provides for plugins: files, or variables of the orchestrator's own environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestratorError

_MAX_BYTES: Final = 64 * 1024  # enough for a key or a certificate


class SecretMissingError(OrchestratorError):
    """A secret that its plugin needs cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """The file `<folder>/<plugin>/<name>`, else the variable named by `variable`. Values are read at each use and
    never stored.
    """

    folder: Path
    environment: Mapping[str, str]
    prefix: str = ""
    """Of a secret's path in the folder that `setting` names."""
    setting: str = "ORCHESTRATOR_SECRETS_DIR"

    def path(self, plugin: str, name: str) -> Path:
        """The file of a secret on this host, which need not be there."""
        return (self.folder / plugin / name).absolute()

    def read(self, plugin: str, name: str) -> bytes:
        """The value. Both names come from a validated manifest. Raises `SecretMissingError`."""
        missing = "is empty"
        try:
            with self.path(plugin, name).open("rb") as file:
                value = file.read(_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            value = self.environment.get(variable(plugin, name), "").encode("utf-8", "surrogateescape")
            missing = "is not provided"
        except OSError as error:
            raise SecretMissingError(self._sentence(plugin, name, f"cannot be read: {error.strerror}")) from None
        if value in {b"", b"\n", b"\r\n"}:  # the plugin gets it without its line end
            raise SecretMissingError(self._sentence(plugin, name, missing))
        if len(value) > _MAX_BYTES:
            raise SecretMissingError(self._sentence(plugin, name, f"is over {_MAX_BYTES // 1024} KiB"))
        return value

    def _sentence(self, plugin: str, name: str, what: str) -> str:
        # The setting and not the folder: callers see the reason too, and learn no paths of this host.
        return (
            f"The secret {name!r} {what}: write it to {self.prefix}{plugin}/{name} in {self.setting} (`orchestrator"
            f" doctor` and the log show the whole path), or set {variable(plugin, name)} for the orchestrator; then"
            " restart the plugin."
        )


def variable(plugin: str, name: str) -> str:
    """The environment variable of a secret."""
    # Unique: `-` becomes `__`, which a plugin's name cannot contain, and no secret's name starts with `_`.
    return f"ORCHESTRATOR_SECRET_{plugin.upper().replace('-', '__')}_{name}"
