"""hosts.yaml: the hosts behind a front, as an operator lists them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from orchestrator.errors import ManifestError, OrchestratorError
from orchestrator.formatting import quoted
from orchestrator.loader.yaml_file import explained, read_yaml, shortened

MAX_HOSTS: Final = 200
_NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_LABEL: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"
_EXPECTED: Final = {
    "name": "lower-case letters, digits and hyphens, such as gpu-1",
    "labels": "names of letters, digits and . _ - /",
}
_MAX_KEY_BYTES: Final = 4096


class HostsFileError(OrchestratorError):
    """A hosts.yaml, or a key that it names, cannot be used; the text says where, and what was expected."""


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"expected an address such as https://10.0.0.7:8000, not {shortened(value)}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected an address without a user, a query or a fragment; key_file names the key")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", parts.path):
        raise ValueError(f"expected a path such as /plugins behind the address, not {shortened(parts.path)}")
    return value.rstrip("/")


def _texts(value: Any) -> Any:
    """YAML reads `rack: 7` and `spot: true` as no texts."""
    if not isinstance(value, Mapping):
        return value
    return {name: str(each).lower() if isinstance(each, bool | int) else each for name, each in value.items()}


_Label = Annotated[str, StringConstraints(pattern=_LABEL)]
_LabelValue = Annotated[str, StringConstraints(max_length=200)]


class HostEntry(BaseModel):
    """One host. Paths are absolute, or relative to the folder of hosts.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=_NAME)]
    """By which operators, metrics and the API call it."""
    address: Annotated[str, AfterValidator(_address)]
    """Of its orchestrator, without a slash at its end."""
    key_file: Path | None = None
    """A file with an API key of the role operator; not needed where that orchestrator has no keys."""
    ca_file: Path | None = None
    """The certificates, in PEM, that an https address is verified by; else the system's."""
    labels: Annotated[dict[_Label, _LabelValue], BeforeValidator(_texts)] = Field(default_factory=dict)
    """What `placement.requires` in manifests speaks of."""

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.address)

    @property
    def base_path(self) -> str:
        """The path below which it shows its routes; empty for the root."""
        return self.parts.path

    def key(self) -> str | None:
        """The API key, read from its file now. Raises `HostsFileError`."""
        if self.key_file is None:
            return None
        try:
            with self.key_file.open("rb") as file:
                text = file.read(_MAX_KEY_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "expected ASCII text"
            raise HostsFileError(f"The key of the host {self.name}, {self.key_file}, cannot be read: {why}.") from None
        if not text or not text.isprintable() or " " in text:
            raise HostsFileError(f"{self.key_file} holds no API key for the host {self.name}: expected one line.")
        return text


@dataclass(frozen=True, slots=True)
class HostsFile:
    """`hosts` in the file's order; names are unique."""

    path: Path
    hosts: tuple[HostEntry, ...]


def read_hosts_file(path: Path) -> HostsFile:
    """Read a list of hosts. Raises `HostsFileError`, which names the line where one is wrong."""
    try:
        found = read_yaml(path, str(path))
    except ManifestError as error:
        raise HostsFileError(f"{error}.") from None
    if not isinstance(found.content, list) or not found.content:
        raise HostsFileError(f"{path}: expected a list of hosts, each with `name` and `address`.")
    if len(found.content) > MAX_HOSTS:
        raise HostsFileError(f"{path}: expected at most {MAX_HOSTS} hosts, not {len(found.content)}.")
    entries = [_entry(path, line, item) for line, item in zip(found.item_lines, found.content, strict=True)]
    for field in ("name", "address"):
        count = Counter(getattr(entry, field) for entry in entries)
        for line, entry in zip(found.item_lines, entries, strict=True):
            value = getattr(entry, field)
            if count[value] > 1:
                raise HostsFileError(f"{path}, line {line}: {field}: another host has {quoted(value)} too.")
    return HostsFile(path, tuple(entries))


def _entry(path: Path, line: int, item: Any) -> HostEntry:
    try:
        entry = HostEntry.model_validate(item)
    except ValidationError as error:
        raise HostsFileError(f"{path}, line {line}: {explained(error, 'the host', _EXPECTED)}.") from None
    if entry.ca_file is not None and entry.parts.scheme != "https":
        raise HostsFileError(f"{path}, line {line}: ca_file: expected only beside an https address.")
    beside = path.parent
    return entry.model_copy(
        update={name: beside / file for name in ("key_file", "ca_file") if (file := getattr(entry, name)) is not None}
    )
