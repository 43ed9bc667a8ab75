"""The Docker SDK and the mapping of its exceptions to ours. No other module imports it."""

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

# Errors of Docker, NVIDIA's container toolkit and the CDI library about devices that cannot be provided. What they mean
# for a plugin is judged where its GPUs are known (`gpus.refusals`).
_DEVICES = re.compile(
    r"select device driver|nvidia-container|nvidia container runtime|NVIDIA_VISIBLE_DEVICES|libnvidia-ml|libcuda\.so"
    r"|/dev/nvidia|runtime.*\bnvidia\b|\bCDI\b.*device|device.*\bCDI\b",
    re.IGNORECASE,
)


class ClientPool:
    """One SDK client per thread, connected at the first call: a missing engine is no error before."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` has DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
        self._environment = dict(environment)
        self._local = threading.local()
        self._generation = 0

    def call(self, function: Callable[[Client], T], *, bound: float) -> T:
        """Run `function` with this thread's client; none of its waits for bytes lasts longer than `bound` seconds."""
        try:
            with engine_errors():
                return function(self._client(bound))
        except EngineUnreachableError:
            # A client negotiates the API version when it is created, and the engine that answers next may be of
            # another version: all clients are replaced.
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
            # kwargs_from_env treats an empty mapping as none, and would read the process's environment.
            settings = kwargs_from_env(environment=self._environment or {"DOCKER_HOST": ""})
            client = _EngineClient(**settings, version="auto", timeout=ceil(bound))
            if client.base_url.startswith("http+docker:"):
                client.trust_env = False  # a socket of this host: no lookup of proxies and .netrc per call
            self._local.client = client
        client.timeout = bound  # type: ignore[assignment]  # requests takes fractions
        return client


class _EngineClient(APIClient):
    is_podman = False

    def _retrieve_server_version(self) -> str:
        # By a ping, as the docker command does: to answer /version, Podman runs a dozen programs, for seconds.
        sdk_itself: Any = super()  # its types leave this method out
        try:
            headers = self.get(f"{self.base_url}/_ping", timeout=self.timeout).headers
        except (requests.ConnectionError, requests.Timeout) as error:
            raise docker_errors.DockerException(f"no answer to a ping: {error}") from error
        self.is_podman = "Libpod-Api-Version" in headers
        return str(headers.get("Api-Version") or sdk_itself._retrieve_server_version())  # noqa: SLF001


def is_podman(client: Client) -> bool:
    """Whether the engine said so when the client connected; asks it nothing."""
    return isinstance(client, _EngineClient) and client.is_podman


def url(client: Client, path: str) -> str:
    """The full address of an API path, with the negotiated version."""
    return f"{client.base_url}/v{client.api_version}{path}"


def create_container(client: Client, body: Mapping[str, Any], name: str, warnings: list[str] | None = None) -> str:
    """Create a container from the body of `POST /containers/create`; its id. `warnings` gets the engine's."""
    answer = client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
    container_id = str(answer["Id"])
    if warnings is not None:
        said = answer.get("Warnings")
        warnings += [text for text in said if isinstance(text, str)] if isinstance(said, list) else []
    return container_id


def raise_for_status(response: requests.Response) -> None:
    """Raise the SDK's exception for an error response to a request made on the client as a session."""
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        docker_errors.create_api_error_from_http_exception(error)


@contextmanager
def engine_errors() -> Iterator[None]:
    """Map everything that the SDK and its transport raise to this project's errors."""
    try:
        yield
    except EngineError:
        raise
    except docker_errors.NotFound as error:
        raise NotFoundError(explanation(error)) from error
    except docker_errors.APIError as error:
        message = explanation(error)
        if error.status_code is None:
            raise EngineUnreachableError(f"the container engine broke off: {message}") from error
        raise (DeviceRequestError if _DEVICES.search(message) else EngineRefusedError)(message) from error
    except (docker_errors.InvalidVersion, docker_errors.TLSParameterError, docker_errors.InvalidArgument) as error:
        raise EngineRefusedError(str(error)) from error
    except (docker_errors.DockerException, requests.ConnectionError, requests.Timeout) as error:
        # The SDK wraps any failure of its first call (the version) in a plain DockerException.
        _close_leaked_sockets(error)
        raise EngineUnreachableError(f"cannot reach the container engine: {_innermost(error)}") from error
    except requests.exceptions.InvalidJSONError as error:
        raise EngineRefusedError(f"the container engine's answer could not be read: {error!r}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnreachableError(f"the connection to the container engine broke: {_innermost(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineRefusedError(f"the container engine's answer could not be read: {error!r}") from error


def explanation(error: docker_errors.APIError) -> str:
    """The engine's own message, without the SDK's address and status line."""
    message = error.explanation
    if isinstance(message, bytes):
        message = message.decode("utf-8", "replace")
    return str(message or error)


def shutdown(response: requests.Response) -> None:
    """End a blocking read of `response` in another thread, at once."""
    # Closing it would wait for that thread's lock.
    with suppress(OSError, ValueError, AttributeError):
        response.raw.shutdown()


def read_forever(response: requests.Response) -> None:
    """Remove the time-out of a stream whose headers have arrived: from here on silence is normal."""
    # Where the transport hides its socket the time-out stays, and the stream breaks after a silence.
    sock: Any = getattr(getattr(response.raw, "connection", None), "sock", None)
    if sock is not None:
        sock.settimeout(None)


def _close_leaked_sockets(error: BaseException) -> None:
    # The SDK leaves a Unix socket open that could not connect, until a garbage collection warns about it.
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if frame.f_code.co_name == "connect" and isinstance(sock := frame.f_locals.get("sock"), socket.socket):
                sock.close()
        seen = seen.__cause__ or seen.__context__


def _innermost(error: BaseException) -> str:
    # The system's own message: requests and urllib3 wrap it three deep and add addresses of objects.
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return str(seen) or type(seen).__name__
