"""The Docker SDK and the mapping of its exceptions to ours. No other module imports it."""

import logging
import os
import re
import signal
import socket
import subprocess
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from docker import APIClient, auth
from docker import errors as docker_errors
from docker.credentials import Store
from docker.credentials.errors import CredentialsNotFound, StoreError
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env, parse_host

from orchestrator.containers.docker_engine import permissions
from orchestrator.containers.docker_engine.address import DEFAULT_URL, ContextTls, EngineAddress, engine_address
from orchestrator.errors import (
    DeviceRequestError,
    EngineAddressError,
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
# Podman's words, with status 500, for a container that is removed while it is asked about.
_GONE: Final = re.compile(r"does not exist in database: no such \w+$|no such container$")
# Errors of Docker, and of Docker Desktop, about a folder that is not on the engine's machine.
_UNSEEN: Final = re.compile(r"bind source path does not exist|mounts denied|not shared from the host", re.IGNORECASE)
_CREDENTIALS_SECONDS: Final = 15.0
"""For a credential helper, which may ask a keychain or a cloud."""

_log = logging.getLogger(__name__)


class ClientPool:
    """One SDK client per thread, connected at the first call: a missing engine is no error before."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` has DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, or what names a docker context."""
        self._environment = dict(environment)
        self._address: EngineAddress | None = None
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

    @property
    def address(self) -> EngineAddress:
        """Raises `EngineAddressError`."""
        # Once and for all: `docker context use` must not move a running orchestrator to another engine.
        if self._address is None:
            self._address = engine_address(self._environment)
            if self._address.context:
                _log.info("the container engine is at %s", self._address)
        return self._address

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
            client = _connect(self.address, self._environment, bound)
            if client.base_url.startswith("http+docker:"):
                client.trust_env = False  # a socket of this host: no lookup of proxies and .netrc per call
            self._local.client = client
        client.timeout = bound  # type: ignore[assignment]  # requests takes fractions
        return client


class _EngineClient(APIClient):
    is_podman = False

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        # Else REQUESTS_CA_BUNDLE, which is for registries and the like, goes before the engine's own authority.
        own = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, own, cert)

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


def _connect(address: EngineAddress, environment: Mapping[str, str], bound: float) -> Client:
    """A new client, which has asked the engine for its version."""
    try:
        if address.context:
            settings: dict[str, Any] = {"base_url": address.url, **({"tls": _tls(address.tls)} if address.tls else {})}
        else:
            # It treats an empty mapping as none, and would read the process's environment.
            settings = dict(kwargs_from_env(environment={"DOCKER_HOST": "", **environment}))
        parse_host(str(settings.get("base_url") or DEFAULT_URL), tls="tls" in settings)
    except docker_errors.DockerException as error:
        said = str(getattr(error, "msg", error)).rstrip(". ")
        raise EngineAddressError(f"{address.source} cannot be used: {said}. Correct it") from error
    try:
        return _EngineClient(**settings, version="auto", timeout=ceil(bound))
    except (docker_errors.InvalidConfigFile, docker_errors.TLSParameterError):
        raise
    except ValueError as error:
        # The SDK reads the entries for registries even where no credentials are needed.
        raise docker_errors.InvalidConfigFile(str(error)) from error


def _tls(tls: ContextTls) -> TLSConfig:
    certificate, key = tls.client or (None, None)
    return TLSConfig(
        client_cert=(str(certificate), str(key)) if tls.client else None,
        ca_cert=str(tls.ca) if tls.ca else None,
        verify=tls.verify,
    )


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


def refused_permissions(client: Client) -> tuple[str, ...]:
    """What the engine's socket does not allow, of what is needed; tried by requests that change nothing."""
    refused = []
    for trial in permissions.TRIALS:
        # Streamed, so that no body is waited for: the status says it.
        with client.request(trial.method, url(client, trial.path), stream=True, timeout=client.timeout) as response:
            if permissions.refuses(response.status_code):
                refused.append(trial.permission)
    return tuple(dict.fromkeys(refused))


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
    except docker_errors.APIError as error:
        raise _of_answer(error) from error
    except docker_errors.InvalidConfigFile as error:
        raise EngineRefusedError(
            f"docker's config.json cannot be used: {error}. Correct its `auths`, or set DOCKER_CONFIG to another folder"
        ) from error
    except docker_errors.TLSParameterError as error:
        raise EngineAddressError(str(error)) from error
    except docker_errors.DockerException as error:
        raise _of_sdk(error) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        _close_leaked_sockets(error)
        raise EngineUnreachableError(f"cannot reach the container engine: {_innermost(error)}") from error
    except requests.exceptions.InvalidJSONError as error:
        raise EngineRefusedError(f"the container engine's answer could not be read: {error!r}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnreachableError(f"the connection to the container engine broke: {_innermost(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineRefusedError(f"the container engine's answer could not be read: {error!r}") from error


def _of_answer(error: docker_errors.APIError) -> EngineError:
    """The engine's error answer, or that of something before it."""
    message = explanation(error)
    if error.response is None:
        return EngineUnreachableError(f"the container engine broke off: {message}")
    request, content_type = error.response.request, error.response.headers.get("Content-Type", "")
    path = urlsplit(request.url or "").path
    refusal = permissions.proxys_refusal(error.response.status_code, request.method or "", path, content_type)
    if refusal is not None:
        return EngineRefusedError(refusal)
    outage = permissions.proxys_outage(error.response.status_code, content_type)
    if outage is not None:
        return EngineUnreachableError(outage)
    if isinstance(error, docker_errors.NotFound) or _GONE.search(message):
        return NotFoundError(message)
    if _UNSEEN.search(message):
        return EngineRefusedError(
            "a folder that is to be mounted is not on the engine's machine, or not shared with it. Docker Desktop "
            "shares /home alone by default (Settings, Resources, File sharing): set ORCHESTRATOR_RUN_DIR "
            "and the folders of plugins, models and secrets to folders that it shares"
        )
    return (DeviceRequestError if _DEVICES.search(message) else EngineRefusedError)(message)


def _of_sdk(error: docker_errors.DockerException) -> EngineError:
    """A plain exception of the SDK, in which it wraps whatever fails in its first call (the version)."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, docker_errors.APIError):
            return _of_answer(cause)
    # requests' own errors are OSErrors too: one that cannot read an answer has reached the engine.
    if any(isinstance(c, OSError | urllib3.exceptions.HTTPError) and not isinstance(c, ValueError) for c in causes):
        _close_leaked_sockets(error)
        return EngineUnreachableError(f"cannot reach the container engine: {_innermost(error)}")
    return EngineRefusedError(str(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


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
    for seen in _chain(error):
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if frame.f_code.co_name == "connect" and isinstance(sock := frame.f_locals.get("sock"), socket.socket):
                sock.close()


def _innermost(error: BaseException) -> str:
    # The system's own message: requests and urllib3 wrap it three deep and add addresses of objects.
    *_, seen = _chain(error)
    return str(seen) or type(seen).__name__


def credentials(reference: str) -> tuple[dict[str, Any], str]:
    """What docker's configuration has for this image's registry: empty without any. Also why it could not be read."""
    # Read anew each time, so that a `docker login` counts at once. Public images need none: a helper that is missing,
    # fails or hangs is no error here, though it is one for the SDK.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a missing helper, which the error names
            registry, _ = auth.resolve_repository_name(reference)
            found = _Credentials.load_config(None, None).resolve_authconfig(registry)
    except (docker_errors.DockerException, StoreError, ValueError, KeyError, TypeError, OSError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, StoreError) else error
        return {}, f"docker's credentials for its registry could not be read: {cause or type(cause).__name__}"
    return found or {}, ""


class _Credentials(auth.AuthConfig):
    """docker's configuration of registries, with helpers that are not waited for without end."""

    def _get_store_instance(self, name: str) -> Store:
        return _BoundedStore(name)


class _BoundedStore(Store):
    def _execute(self, subcmd: str, data_input: bytes) -> bytes:
        if self.exe is None:
            raise StoreError(f"{self.program} is not installed, or not on PATH")
        try:
            # A session of its own: what the helper starts ends with it, and cannot hold its output open.
            process = subprocess.Popen(  # noqa: S603 - the operator's configuration names it
                [self.exe, subcmd],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise StoreError(f"{self.program} cannot be executed: {error.strerror}") from error
        try:
            output, _ = process.communicate(data_input, timeout=_CREDENTIALS_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise StoreError(f"{self.program} gave no answer within {_CREDENTIALS_SECONDS:g} s") from None
        if process.returncode:
            said = output.decode("utf-8", "replace").strip()
            if "credentials not found" in said:
                raise CredentialsNotFound(said)
            raise StoreError(f"{self.program} failed with exit code {process.returncode}: {said[:200]}")
        return output
