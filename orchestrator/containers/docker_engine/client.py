"""The Docker SDK, and how its exceptions become ours. No other module imports it."""

import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any, TypeVar

import requests
import urllib3
from docker import APIClient
from docker import errors as docker_errors
from docker.utils import kwargs_from_env

from orchestrator.errors import (
    DeviceRequestError,
    EngineError,
    EngineRefusedError,
    EngineUnreachableError,
    NotFoundError,
)

T = TypeVar("T")
Client = APIClient

_DEVICES = re.compile(
    r"select device driver|nvidia-container|libnvidia-ml|\bCDI\b.*device|device.*\bCDI\b", re.IGNORECASE
)
"""What Docker, the nvidia hook and the CDI library say when devices cannot be had."""


class ClientPool:
    """One SDK client per thread. Nothing is connected before the first call: a missing engine is no error until then.

    A client negotiates the API version when it is made, so all of them are made anew when the engine was out of reach:
    the one that answers next may be of another version.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` is where DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are looked up."""
        self._environment = dict(environment)
        self._local = threading.local()
        self._generation = 0

    def call(self, function: Callable[[Client], T], *, bound: float) -> T:
        """Run `function` with this thread's client; no wait for bytes in it is longer than `bound` seconds."""
        try:
            with engine_errors():
                return function(self._client(bound))
        except EngineUnreachableError:
            self._generation += 1
            raise
        except EngineRefusedError as error:
            if "client version" in str(error):
                self._generation += 1
            raise

    def drop(self) -> None:
        """Close this thread's client, if it has one."""
        client = self._local.__dict__.pop("client", None)
        if client is not None:
            client.close()

    def _client(self, bound: float) -> Client:
        if getattr(self._local, "generation", None) != self._generation:
            self.drop()
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            self._local.generation = self._generation
            # kwargs_from_env takes an empty mapping for none given, and would read the process's environment.
            settings = kwargs_from_env(environment=self._environment or {"DOCKER_HOST": ""})
            client = APIClient(**settings, version="auto", timeout=ceil(bound))
            if client.base_url.startswith(
                "http+docker:"
            ):  # a socket of this host: no proxy, no .netrc to look up each time
                client.trust_env = False
            self._local.client = client
        client.timeout = bound  # type: ignore[assignment]  # requests takes fractions
        return client


def url(client: Client, path: str) -> str:
    """The full address of an API path, with the version that was negotiated."""
    return f"{client.base_url}/v{client.api_version}{path}"


def raise_for_status(response: requests.Response) -> None:
    """Raise the SDK's own exception for an error answer to a request that was made on the client as a session."""
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        docker_errors.create_api_error_from_http_exception(error)


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn whatever the SDK and its transport raise into this project's errors."""
    try:
        yield
    except EngineError:
        raise
    except docker_errors.NotFound as error:
        raise NotFoundError(explanation(error)) from error
    except docker_errors.APIError as error:
        said = explanation(error)
        if error.status_code is None:
            raise EngineUnreachableError(f"the container engine broke off: {said}") from error
        raise (DeviceRequestError if _DEVICES.search(said) else EngineRefusedError)(said) from error
    except (docker_errors.InvalidVersion, docker_errors.TLSParameterError, docker_errors.InvalidArgument) as error:
        raise EngineRefusedError(str(error)) from error
    except (docker_errors.DockerException, requests.ConnectionError, requests.Timeout) as error:
        # The SDK wraps any failure of its first call (the version) in a plain DockerException.
        _close_forgotten_sockets(error)
        raise EngineUnreachableError(f"cannot reach the container engine: {_innermost(error)}") from error
    except requests.exceptions.InvalidJSONError as error:
        raise EngineRefusedError(f"the container engine's answer could not be read: {error!r}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnreachableError(f"the connection to the container engine broke: {_innermost(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineRefusedError(f"the container engine's answer could not be read: {error!r}") from error


def explanation(error: docker_errors.APIError) -> str:
    """What the engine said, without the SDK's address and status line."""
    said = error.explanation
    if isinstance(said, bytes):
        said = said.decode("utf-8", "replace")
    return str(said or error)


def shutdown(response: requests.Response) -> None:
    """End a blocking read of `response` in another thread, at once. To close it is to wait for that thread's lock."""
    with suppress(OSError, ValueError, AttributeError):
        response.raw.shutdown()


def read_forever(response: requests.Response) -> None:
    """Take the time-out off a stream whose headers have come: silence is normal in it from here on.

    Where the transport hides its socket the time-out stays, and the stream breaks after a silence.
    """
    sock: Any = getattr(getattr(response.raw, "connection", None), "sock", None)
    if sock is not None:
        sock.settimeout(None)


def _close_forgotten_sockets(error: BaseException) -> None:
    """The SDK leaves a Unix socket open that could not connect, until some garbage collection warns of it."""
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if frame.f_code.co_name == "connect" and isinstance(sock := frame.f_locals.get("sock"), socket.socket):
                sock.close()
        seen = seen.__cause__ or seen.__context__


def _innermost(error: BaseException) -> str:
    """The system's own words. requests and urllib3 wrap them three deep and print addresses of objects around them."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return str(seen) or type(seen).__name__
