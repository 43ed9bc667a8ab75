"""The file of webhooks (ORCHESTRATOR_WEBHOOKS), read once at the start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator.access.principal import EVERY_PLUGIN, plugin_patterns
from orchestrator.errors import ManifestError, OrchestratorError
from orchestrator.loader.yaml_file import explained, read_yaml
from orchestrator.webhooks.signature import parse_secret

EventType = Literal["run.finished", "plugin.failed", "plugin.degraded"]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)

MAX_WEBHOOKS: Final = 16
_VARIABLE: Final = "ORCHESTRATOR_WEBHOOKS"
_MAX_SECRETS: Final = 4
_MAX_SECRET_FILE_BYTES: Final = 4096
_EXAMPLE: Final = "Each item of its list has name, url and secret_file, and may have events and plugins."


class WebhooksFileError(OrchestratorError):
    """The file of webhooks cannot be used; its text names file, line and what was expected."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where messages of some events of some plugins go. `keys`: each signs."""

    name: str
    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    events: tuple[EventType, ...] = EVENT_TYPES
    plugins: tuple[str, ...] = EVERY_PLUGIN

    def wants(self, event: str, plugin: str) -> bool:
        return event in self.events and any(fnmatchcase(plugin, pattern) for pattern in self.plugins)

    @property
    def shown_url(self) -> str:
        """Without what may be secret in it: a user, a password, a query."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def _url(value: Any) -> Any:
    problem = ValueError("expected an address such as https://example.org/hooks (what is there is not shown)")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise problem
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment
        _ = parts.port  # raises where it is none
    except ValueError:
        raise problem from None
    if not fits:
        raise problem
    return value


def _secret_file(value: Any) -> Any:
    try:
        parse_secret(str(value))
    except ValueError:
        return value
    raise ValueError("expected the path of a file that has the secret, not the secret itself")


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _patterns(value: Any) -> Any:
    value = _list(value)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("expected names of plugins or patterns such as 'det-*'")
    return plugin_patterns(",".join(value))


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    url: Annotated[str, BeforeValidator(_url)]
    secret_file: Annotated[str, BeforeValidator(_secret_file), Field(min_length=1)]
    events: Annotated[tuple[EventType, ...], BeforeValidator(_list), Field(min_length=1)] = EVENT_TYPES
    plugins: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = EVERY_PLUGIN


_EXPECTED: Final[Mapping[str, str]] = {"name": "lower-case letters, digits and hyphens, at most 63"}


def load_webhooks(path: Path | None) -> tuple[Webhook, ...]:
    """The webhooks of the file, in its order; none without one. Raises `WebhooksFileError`."""
    if path is None:
        return ()
    try:
        file = read_yaml(path, f"{_VARIABLE}: {path}")
    except ManifestError as error:
        raise WebhooksFileError(f"{error}. Correct the file, or unset {_VARIABLE}.") from None
    entries = file.content
    if not isinstance(entries, list) or not entries:
        raise WebhooksFileError(f"{_VARIABLE}: {path}: expected a list of webhooks. {_EXAMPLE}")
    if len(entries) > MAX_WEBHOOKS:
        raise WebhooksFileError(f"{_VARIABLE}: {path}: expected at most {MAX_WEBHOOKS} webhooks, not {len(entries)}.")
    found: dict[str, Webhook] = {}
    for line, entry in zip(file.item_lines, entries, strict=True):
        where = f"{_VARIABLE}: {path}, line {line}"
        webhook = _webhook(entry, path.parent, where)
        if webhook.name in found:
            raise WebhooksFileError(f"{where}: name: {webhook.name!r} is the name of another webhook too; change one.")
        found[webhook.name] = webhook
    return tuple(found.values())


def _webhook(entry: Any, folder: Path, where: str) -> Webhook:
    if not isinstance(entry, dict):
        raise WebhooksFileError(f"{where}: expected fields such as `name: pager`. {_EXAMPLE}")
    try:
        valid = _Entry.model_validate(entry)
    except ValidationError as error:
        raise WebhooksFileError(f"{where}: {explained(error, 'webhook', _EXPECTED)}. {_EXAMPLE}") from None
    secret_file = folder / valid.secret_file  # an absolute path stays as it is
    try:
        keys = _keys(secret_file)
    except OSError as error:
        raise WebhooksFileError(
            f"{where}: secret_file: {secret_file} cannot be read: {error.strerror}. `openssl rand -base64 32` makes a "
            "secret for it."
        ) from None
    except UnicodeDecodeError:
        raise WebhooksFileError(f"{where}: secret_file: {secret_file}: expected ASCII text.") from None
    except ValueError as error:
        raise WebhooksFileError(f"{where}: secret_file: {secret_file}: {error}.") from None
    return Webhook(valid.name, valid.url, keys, valid.events, valid.plugins)


def _keys(path: Path) -> tuple[bytes, ...]:
    """The secrets in a file. Raises `OSError`, `ValueError`."""
    with path.open("rb") as file:
        lines = file.read(_MAX_SECRET_FILE_BYTES).decode("ascii").split()
    if not 1 <= len(lines) <= _MAX_SECRETS:
        raise ValueError(f"expected one secret, or up to {_MAX_SECRETS} while it is changed, each on its own line")
    return tuple(map(parse_secret, lines))
