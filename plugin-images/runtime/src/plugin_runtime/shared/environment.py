"""The settings of the container: environment variables, read once at start."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SOCKET_PATH = 107  # bytes, without the closing NUL; sun_path of unix(7)
MIB = 1024 * 1024


class EnvironmentProblem(ValueError):  # noqa: N818 - what is wrong, in one sentence for the operator
    """The runtime cannot start with these environment variables."""


class Environment(NamedTuple):
    """Sizes in bytes."""

    name: str
    entrypoint: str
    packages: tuple[str, ...]
    models: dict[str, str]
    requires_gpu: bool
    code_dir: str | None
    run_dir: str
    scratch_dir: str
    max_result: int
    max_scratch: int
    max_output: int
    cache_dir: str | None
    max_cache: int
    notify_socket: str | None
    health_file: str | None
    concurrency: int
    """Runs at once."""
    limits: dict[str, float]
    """What the container must be held to, by the keys of `limits` in the status object."""

    @property
    def control_socket(self) -> str:
        """Served by the supervisor."""
        return os.path.join(self.run_dir, "control.sock")  # noqa: PTH118 - pathlib costs the supervisor a megabyte

    @property
    def tools_socket(self) -> str:
        """Served by the worker."""
        return os.path.join(self.run_dir, "tools.sock")  # noqa: PTH118 - see control_socket


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Everything but the entrypoint has a default, for runs outside a container. Raises EnvironmentProblem."""
    entrypoint = environ.get("PLUGIN_ENTRYPOINT", "")
    module, colon, attribute = entrypoint.partition(":")
    if not (module and colon and attribute):
        raise EnvironmentProblem(f"PLUGIN_ENTRYPOINT is {entrypoint!r}, expected package.module:Class")
    run_dir = environ.get("PLUGIN_RUN_DIR") or "/run/plugin"
    environment = Environment(
        name=environ.get("PLUGIN_NAME") or module,
        entrypoint=entrypoint,
        packages=tuple(_strings("PLUGIN_PACKAGES", _json(environ, "PLUGIN_PACKAGES", []))),
        models=_mapping("PLUGIN_MODELS", _json(environ, "PLUGIN_MODELS", {})),
        requires_gpu=environ.get("PLUGIN_REQUIRES_GPU", "") not in {"", "0"},
        code_dir=environ.get("PLUGIN_CODE_DIR") or None,
        run_dir=run_dir,
        scratch_dir=environ.get("PLUGIN_SCRATCH_DIR") or f"{run_dir}/scratch",
        max_result=_number(environ, "PLUGIN_MAX_RESULT", 16 * MIB, "a number of bytes"),
        max_scratch=_number(environ, "PLUGIN_MAX_SCRATCH", 1024 * MIB, "a number of bytes"),
        max_output=_number(environ, "PLUGIN_MAX_OUTPUT", 4096 * MIB, "a number of bytes"),
        cache_dir=environ.get("PLUGIN_CACHE_DIR") or None,
        max_cache=_number(environ, "PLUGIN_MAX_CACHE", 0, "a number of bytes"),
        notify_socket=environ.get("NOTIFY_SOCKET") or None,
        health_file=environ.get("PLUGIN_HEALTH_FILE") or None,
        concurrency=max(1, _number(environ, "PLUGIN_CONCURRENCY", 1, "a number of runs")),
        limits=_numbers("PLUGIN_LIMITS", _json(environ, "PLUGIN_LIMITS", {})),
    )
    # Found here it can be explained; bind() would fail with a sentence that names no variable.
    for path in (environment.control_socket, environment.tools_socket):
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH:
            raise EnvironmentProblem(
                f"the socket path {path} has {length} bytes and Unix sockets allow {MAX_SOCKET_PATH};"
                " choose a shorter PLUGIN_RUN_DIR",
            )
    return environment


def _json(environ: Mapping[str, str], key: str, default: object) -> object:
    text = environ.get(key)
    if not text:
        return default
    try:
        return json.loads(text)
    except ValueError as error:
        raise EnvironmentProblem(f"{key} is no JSON: {error}") from error


def _strings(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise EnvironmentProblem(f"{key} is {value!r}, expected a JSON list of strings")
    return value


def _mapping(key: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise EnvironmentProblem(f"{key} is {value!r}, expected a JSON object of strings")
    return value


def _numbers(key: str, value: object) -> dict[str, float]:
    if not isinstance(value, dict) or not all(isinstance(item, (int, float)) for item in value.values()):
        raise EnvironmentProblem(f"{key} is {value!r}, expected a JSON object of numbers")
    return value


def _number(environ: Mapping[str, str], key: str, default: int, what: str) -> int:
    text = environ.get(key)
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise EnvironmentProblem(f"{key} is {text!r}, expected {what}")
    return int(text)
