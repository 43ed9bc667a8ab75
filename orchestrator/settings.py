"""Settings from environment variables with the prefix ORCHESTRATOR_, read once at the start."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import durationpy
import platformdirs
from pydantic import BeforeValidator, ByteSize, Field, IPvAnyNetwork, PlainSerializer, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orchestrator.run_folder import APP, default_run_dir


def _duration(value: Any) -> Any:
    """Durations as Docker and compose write them: `60s`, `1m30s`, `500ms`."""
    if isinstance(value, timedelta):
        return value
    # A bare number is refused: its unit would be a guess.
    if not isinstance(value, str) or not re.search(r"[a-z]$", value):
        raise ValueError(f"expected a duration with its unit, such as 60s or 1m30s, not {value!r}")
    try:
        return durationpy.from_str(value)
    except durationpy.DurationError:
        raise ValueError(f"expected a duration such as 60s or 1m30s, not {value!r}") from None


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("expected a duration above zero")
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return value


Duration = Annotated[
    timedelta,
    # Pydantic runs these from the last to the first.
    BeforeValidator(_positive),
    BeforeValidator(_duration, json_schema_input_type=str),
    PlainSerializer(lambda value: f"{value.total_seconds():.15g}s", return_type=str),
]
Size = Annotated[ByteSize, BeforeValidator(_size, json_schema_input_type=str | int), Field(gt=0)]
"""Bytes; read from `1GiB`, `512MiB`, `10MB` or a number of bytes."""


def _paths(value: Any) -> Any:
    return [part for part in value.split(":") if part] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origin(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^/?#\s@*,]+", value):
        raise ValueError(f"expected an origin such as https://app.example.org, without a path, not {value!r}")
    return value.lower()


Origin = Annotated[str, BeforeValidator(_origin)]


def _root_path(value: Any) -> Any:
    path = value.rstrip("/") if isinstance(value, str) else value
    if path == "" or (isinstance(path, str) and re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path) and "/.." not in path):
        return path
    raise ValueError(f"expected a path such as /plugins, not {value!r}")


def _labels(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(name.strip() and found for name, found, _ in pairs):
        raise ValueError(f"expected name=value, separated by commas, not {value!r}")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _tokens(value: Any) -> Any:
    try:
        return _labels(value)
    except ValueError:
        raise ValueError("expected host=token, separated by commas (what is set is not shown)") from None


class Settings(BaseSettings):
    """The operator's settings. Every field is the variable ORCHESTRATOR_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    # NoDecode, here and below: else pydantic-settings reads the variable as JSON.
    plugins_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = (Path("plugins"),)
    """Folders that hold plugin folders, separated by colons."""
    models_dir: Path | None = None
    """Where set, a plugin's models are in <models_dir>/<plugin>/ instead of its own folder, and fetched ones in
    <models_dir>/.store instead of <state_dir>/models."""
    models_tokens: Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_tokens)] = Field(default_factory=dict)
    """Tokens that `models pull` sends to the hosts that models come from, as host=token, separated by commas."""
    secrets_dir: Path | None = None
    """Secrets for plugins, as <secrets_dir>/<plugin>/<name>; <state_dir>/secrets where not set."""
    state_dir: Path = Field(default_factory=lambda: platformdirs.user_state_path(APP, use_site_for_root=True))
    """History, keys, build logs. /var/lib/plugin-orchestrator for root, else under the user's home."""
    run_dir: Path = Field(default_factory=lambda fields: default_run_dir(fields["state_dir"]))
    """Sockets. Keep it short: a socket's path has at most 107 bytes. /run/plugin-orchestrator for root; for a user
    below XDG_RUNTIME_DIR if that outlives a logout (`loginctl enable-linger`), else <state_dir>/run."""

    tls_cert: Path | None = None
    """A certificate with its chain, in PEM: the API is served by TLS alone. Read again when it changes."""
    tls_key: Path | None = None
    """The key of `tls_cert`; not needed where that file has it too."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """Host names, separated by commas, that requests may name while no API key is configured; loopback always may."""
    allowed_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_names)] = ()
    """Origins, separated by commas, such as https://app.example.org, whose pages may call the API from a browser."""
    root_path: Annotated[str, BeforeValidator(_root_path)] = ""
    """The path below which a proxy shows the orchestrator, such as /plugins, whether or not the proxy passes it on."""
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_names)] = ()
    """Addresses or networks, separated by commas, of proxies that say who calls, in the header `proxy_user_header`."""
    proxy_user_header: str = Field("X-Forwarded-User", pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The header in which a trusted proxy names its user; such users are made by `keys add NAME --by-proxy`."""
    operator_key_file: Path | None = None
    """A file with an API key of the role operator, such as a compose secret; valid beside those of `keys add`."""
    viewer_key_file: Path | None = None
    """The same of the role viewer."""

    default_timeout: Duration = timedelta(seconds=60)
    default_memory: Size = ByteSize(1024**3)
    default_cpus: float | None = Field(None, gt=0)
    default_pids: int = Field(128, ge=8)
    default_shm: Size = ByteSize(64 * 1024**2)
    default_scratch: Size = ByteSize(4 * 1024**3)
    default_output: Size = ByteSize(4 * 1024**3)
    default_startup_timeout: Duration = timedelta(seconds=120)
    allow_unlimited: Annotated[
        tuple[Literal["memory", "swap", "pids", "cpus"], ...], NoDecode, BeforeValidator(_names)
    ] = ()
    """Limits, separated by commas, without which a plugin may run where the engine cannot hold it to them: of `memory`,
    `swap`, `pids`, `cpus`. Its health then says so."""
    stop_grace: Duration = timedelta(seconds=2)
    drain: Duration = timedelta(seconds=60)
    """How long a stopping orchestrator waits for runs whose callers wait; it may take half a minute more to exit."""

    max_connections: int = Field(1024, ge=16, le=65536)
    """Concurrent connections of callers; three quarters of them may be waiting for an answer other than health."""
    max_result: Size = ByteSize(64 * 1024**2)
    """Largest result of a tool, encoded as JSON; it is held in memory while it is passed on."""
    upload_idle_timeout: Duration = timedelta(seconds=30)
    """A caller that sends nothing for this long in the middle of its body is answered 408."""
    upload_min_rate: Size = ByteSize(16 * 1024)
    """Bytes a second: a caller that is more than half a minute behind this in its body is answered 408 too."""
    event_readers: int = Field(128, ge=1)
    """Concurrent followers of the events; one more is answered 429."""
    mcp_sessions: int = Field(128, ge=1)
    """Concurrent sessions of older MCP clients, and as many streams that tell current ones of changed tools."""
    container_labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_labels)] = Field(default_factory=dict)
    """Additional labels for plugins' containers, as name=value, separated by commas."""
    parked: bool = False
    """Start no plugin that may be parked (`idle.after`, or GPUs without `idle.keep`) until it is called."""
    placed: bool = False
    """Start only plugins that a command has started on this host: a front chooses the hosts of each."""
    start_concurrency: int = Field(4, ge=1)
    """Bound on containers that are started at the same time. While plugins are called it is half of this host's cores,
    where that is less.
    """
    cancel_grace: Duration = timedelta(seconds=5)
    """Time for a cancelled run to end by itself; then its container is stopped."""
    engine_timeout: Duration = timedelta(seconds=10)
    """Bound on a request to the container engine, and how much longer than the grace it may take to end a container."""

    history_max_age: Duration = timedelta(days=30)
    """Events and runs older than this are deleted; counters are not."""
    history_max_bytes: Size = ByteSize(256 * 1024**2)
    """Maximum size of the history on disk."""
    results_max_age: Duration = timedelta(hours=1)
    """How long the result of an asynchronous run, or of one that gave files, is stored after its end."""
    results_max_bytes: Size = ByteSize(8 * 1024**3)
    """Maximum size of all these results and files together; the oldest are deleted first."""
    webhooks: Path | None = None
    """A YAML file of addresses that are sent a signed message when runs finish and plugins fail; see
    orchestrator/webhooks."""

    channel: Literal["auto", "unix", "tcp"] = "auto"
    """How plugins are reached: by Unix sockets, or, where the engine does not share them, by TCP and a gateway each."""
    gpu_driver: Literal["auto", "nvidia", "cdi", "runtime"] = "auto"
    """How GPUs are requested of the engine: in the ways that it reports until one is served, or in this one alone:
    device requests for `nvidia`, CDI devices, or the runtime `nvidia`."""
    gpu_groups: Annotated[tuple[Annotated[int, Field(ge=1)], ...], NoDecode, BeforeValidator(_names)] = ()
    """Numbers of groups for containers with GPUs, separated by commas, besides those of this host's /dev/nvidia*: for
    an engine on another machine whose device nodes only a group may open."""
    gpu_first_look: Duration = timedelta(seconds=60)
    """How long the NVIDIA driver may take to answer while it wakes its GPUs: the first time and, without persistence
    mode, each time. A driver that takes longer hangs."""
    ca_bundle: Path | None = None
    """CA certificates that image builds and pulls of models trust; by default those of SSL_CERT_FILE and similar
    variables."""
    python_image: str = "plugin-orchestrator/python:3.11-bookworm"
    """The image that the base image is built on."""
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
