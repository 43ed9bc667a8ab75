"""Settings from environment variables with the prefix ORCHESTRATOR_, read once at the start."""

import re
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import durationpy
import platformdirs
from pydantic import BeforeValidator, ByteSize, Field, PlainSerializer
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_APP = "plugin-orchestrator"


def _duration(value: Any) -> Any:
    """Durations as Docker and compose write them: `60s`, `1m30s`, `500ms`. A bare number is refused: its unit would
    be a guess.
    """
    if isinstance(value, timedelta):
        return value
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


def _labels(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(name.strip() and found for name, found, _ in pairs):
        raise ValueError(f"expected name=value, separated by commas, not {value!r}")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _runtime_path() -> Path:
    with warnings.catch_warnings():  # without XDG_RUNTIME_DIR it is a folder under /tmp, which is what we want then
        warnings.simplefilter("ignore")
        return platformdirs.user_runtime_path(_APP, use_site_for_root=True)


class Settings(BaseSettings):
    """What an operator can set. Every field is the variable ORCHESTRATOR_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    plugins_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = (Path("plugins"),)
    """Folders that hold plugin folders, separated by colons."""
    models_dir: Path | None = None
    """Where set, a plugin's models are looked for in <models_dir>/<plugin>/ instead of its own folder."""
    secrets_dir: Path | None = None
    """Secrets for plugins, as <secrets_dir>/<plugin>/<name>; <state_dir>/secrets where not set."""
    state_dir: Path = Field(default_factory=lambda: platformdirs.user_state_path(_APP, use_site_for_root=True))
    """History, keys, build logs. /var/lib/plugin-orchestrator for root, else under the user's home."""
    run_dir: Path = Field(default_factory=_runtime_path)
    """Sockets. Keep it short: a socket's path has at most 107 bytes. /run/plugin-orchestrator for root."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """Names, separated by commas, that it may be called by while no API key is configured; loopback always may."""
    operator_key_file: Path | None = None
    """A file with an API key of the role operator, such as a secret of compose; counts beside those of `keys add`."""
    viewer_key_file: Path | None = None
    """The same of the role viewer."""

    default_timeout: Duration = timedelta(seconds=60)
    default_memory: Size = ByteSize(1024**3)
    default_cpus: float | None = Field(None, gt=0)
    default_pids: int = Field(128, ge=8)
    default_shm: Size = ByteSize(64 * 1024**2)
    default_scratch: Size = ByteSize(4 * 1024**3)
    default_startup_timeout: Duration = timedelta(seconds=120)
    stop_grace: Duration = timedelta(seconds=2)

    max_connections: int = Field(1024, ge=16, le=65536)
    """Connections of callers at once; three quarters of them may be waiting for an answer other than health."""
    max_result: Size = ByteSize(64 * 1024**2)
    """Largest result of a tool, encoded as JSON; it is held in memory while it is passed on."""
    upload_idle_timeout: Duration = timedelta(seconds=30)
    """A caller that sends nothing for so long in the middle of its body is told 408."""
    upload_min_rate: Size = ByteSize(16 * 1024)
    """Bytes a second: a caller that is more than half a minute behind this in its body is told 408 too."""
    event_readers: int = Field(128, ge=1)
    """Readers that may follow the events at the same time; one more is told 429."""
    container_labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_labels)] = Field(default_factory=dict)
    """Labels for plugins' containers beside its own, as name=value, separated by commas."""
    start_concurrency: int = Field(4, ge=1)
    """Containers that are started at the same time."""
    cancel_grace: Duration = timedelta(seconds=5)
    """What a cancelled run has to end by itself; then its container is stopped."""
    engine_timeout: Duration = timedelta(seconds=10)
    """Bound on a question to the container engine."""

    history_max_age: Duration = timedelta(days=30)
    """Events and runs older than this are forgotten; counters are not."""
    history_max_bytes: Size = ByteSize(256 * 1024**2)
    """What the history may take on disk."""
    results_max_age: Duration = timedelta(hours=1)
    """How long the result of an asynchronous run can be had after its end."""
    results_max_bytes: Size = ByteSize(1024**3)
    """What all of these results together may take on disk; the oldest have to go first."""

    channel: Literal["auto", "unix", "tcp"] = "auto"
    """How plugins are reached: by Unix sockets, or by TCP and a gateway each where these cannot cross."""
    gpu_driver: Literal["auto", "nvidia", "cdi"] = "auto"
    """How the engine is asked for GPUs: what it has, or one of the two whatever it says."""
    ca_bundle: Path | None = None
    """CA certificates that image builds must trust; without it SSL_CERT_FILE and its like are taken."""
    python_image: str = "plugin-orchestrator/python:3.11-bookworm"
    """What the base image is built on."""
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
