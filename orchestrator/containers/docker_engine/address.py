"""Which engine is used, and what says so, as the docker command decides it: DOCKER_HOST, a docker context, or none."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import EngineAddressError

DEFAULT_URL: Final = "unix:///var/run/docker.sock"
_DEFAULT_CONTEXT: Final = "default"
_ENDPOINT: Final = "docker"
"""A context's endpoints have names; others are of orchestrators such as Kubernetes."""


@dataclass(frozen=True, slots=True)
class ContextTls:
    """A context's certificates; None: it has none of that kind. `verify`: whether the engine's own is checked."""

    ca: Path | None
    client: tuple[Path, Path] | None
    verify: bool


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """`source` names for people what says `url`. `context` is empty unless a docker context does."""

    url: str
    source: str
    context: str = ""
    tls: ContextTls | None = None

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def engine_address(environment: Mapping[str, str]) -> EngineAddress:
    """The address by DOCKER_HOST, else by DOCKER_CONTEXT, else by `currentContext` in docker's configuration, else the
    default. Raises `EngineAddressError` for a context that does not exist or has no such engine.
    """
    if host := environment.get("DOCKER_HOST"):
        return _supported(EngineAddress(host, "DOCKER_HOST"))
    folder = _configuration_folder(environment)
    if name := environment.get("DOCKER_CONTEXT"):
        named_by = "DOCKER_CONTEXT"
    else:
        name, named_by = _current_context(folder), "currentContext in docker's config.json"
    if name in {"", _DEFAULT_CONTEXT}:
        return EngineAddress(DEFAULT_URL, "the default")
    return _supported(_of_context(folder / "contexts", name, named_by))


def _configuration_folder(environment: Mapping[str, str]) -> Path:
    if chosen := environment.get("DOCKER_CONFIG"):
        return Path(chosen)
    home = environment.get("HOME")
    return (Path(home) if home else Path.home()) / ".docker"


def _current_context(folder: Path) -> str:
    # One that cannot be read counts as none, as for the docker command, which then uses the default too.
    name = _read(folder / "config.json").get("currentContext")
    return name if isinstance(name, str) else ""


def _of_context(contexts: Path, name: str, named_by: str) -> EngineAddress:
    """Docker stores a context under the hash of its name, its certificates beside it."""
    hashed = hashlib.sha256(name.encode()).hexdigest()
    meta = contexts / "meta" / hashed / "meta.json"
    remedy = "Choose another one (docker context use NAME), or set DOCKER_HOST"
    if not meta.is_file():
        raise EngineAddressError(f"the docker context {name!r} does not exist (named by {named_by}). {remedy}")
    endpoints = _read(meta).get("Endpoints")
    endpoint = endpoints.get(_ENDPOINT) if isinstance(endpoints, dict) else None
    url = endpoint.get("Host") if isinstance(endpoint, dict) else None
    if not isinstance(endpoint, dict) or not isinstance(url, str) or not url:
        raise EngineAddressError(
            f"the docker context {name!r} has no address of an engine, or its meta.json cannot be read. {remedy}"
        )
    tls = _certificates(contexts / "tls" / hashed / _ENDPOINT, verify=not endpoint.get("SkipTLSVerify"))
    return EngineAddress(url, f"docker's context {name}", context=name, tls=tls)


def _certificates(folder: Path, *, verify: bool) -> ContextTls | None:
    ca, certificate, key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
    client = (certificate, key) if certificate.is_file() and key.is_file() else None
    if client is None and not ca.is_file():
        return None
    return ContextTls(ca if ca.is_file() else None, client, verify)


def _supported(address: EngineAddress) -> EngineAddress:
    if address.url.startswith("ssh://"):
        raise EngineAddressError(
            f"the engine is reached over SSH ({address.source}), which is not supported: plugins' folders and sockets "
            "must be on the engine's machine. Run the orchestrator there, or set DOCKER_HOST to an engine of this one"
        )
    return address


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
