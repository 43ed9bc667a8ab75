"""Requests and answers as values, and httpx's options, retry rules and exceptions for them. Nothing is sent here."""

import ipaddress
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
from httpx_sse import SSEError

from orchestrator.client import arguments
from orchestrator.client.errors import (
    ApiError,
    PluginUnavailable,
    QueueFull,
    UnexpectedAnswer,
    Unreachable,
    error_of,
)

logging.getLogger("stamina").addHandler(logging.NullHandler())
# Without a handler Python prints warnings to stderr: a program that set up no logging would show each retry.

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8000"
_CONNECT_SECONDS: Final = 10.0
_MAX_RETRY_AFTER: Final = 30.0
"""Seconds; a request with a longer Retry-After is not sent again."""
_GATEWAY_STATUSES: Final = frozenset({502, 503, 504})
MAX_RETRYING: Final = 60.0
"""Seconds after the first attempt in which a request may be sent again."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `arguments`: those of a tool.

    `read_timeout`: seconds to wait for each piece of the answer; None where the orchestrator bounds the wait itself.
    `delay`: seconds to wait before it is sent. `waits`: the orchestrator answers late on purpose, and the operation
    sends a shorter one after the error of a proxy.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = None
    read_timeout: float | None = 30.0
    delay: float = 0.0
    waits: bool = False

    @property
    def safe(self) -> bool:
        """Whether sending it again does no harm."""
        return self.method == "GET"

    @property
    def repeatable(self) -> bool:
        """Whether its body can be read a second time."""
        return arguments.repeatable(self.arguments or {})


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises `UnexpectedAnswer`."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise UnexpectedAnswer(
                f"The answer has status {self.status} and is no JSON. Is that the orchestrator?{self._gateway()}",
                status=self.status,
            ) from None

    def error(self) -> ApiError | None:
        """The error that the answer means, None if it is a success."""
        if 200 <= self.status < 300:
            return None
        try:
            envelope = self.json()
        except UnexpectedAnswer as error:
            return error
        if not isinstance(envelope, dict):
            return UnexpectedAnswer(
                f"The answer has status {self.status} and no envelope. Is that the orchestrator?{self._gateway()}",
                status=self.status,
            )
        return error_of(self.status, envelope, retry_after=_seconds(self.headers.get("retry-after")))

    def _gateway(self) -> str:
        return " A proxy may have answered in its stead." if self.status in _GATEWAY_STATUSES else ""


def of_gateway(error: Exception) -> bool:
    """Whether it is the answer of a proxy that reached no orchestrator, or stopped waiting for it."""
    return isinstance(error, UnexpectedAnswer) and error.status in _GATEWAY_STATUSES


def answer_of(response: httpx.Response) -> Answer:
    """The answer in a response whose body has been read."""
    return Answer(response.status_code, response.headers, response.content)


def error_in(response: httpx.Response) -> ApiError | None:
    """The error that a response means, None if it is a success."""
    return None if response.is_success else answer_of(response).error()


def segment(text: str) -> str:
    """`text` as one segment of a path: no name leads to another route."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if set(text) == {"."} else quoted


def connection_options(base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """Options of the HTTP client."""
    url = httpx.URL(base_url or os.environ.get("ORCHESTRATOR_URL") or DEFAULT_ADDRESS)
    key = (api_key or os.environ.get("ORCHESTRATOR_API_KEY", "")).strip()
    here = _is_loopback(url.host)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "trust_env": not here,  # no proxy stands between two programs of one host
        "verify": url.scheme == "https",  # plain HTTP need not load the certificates
    }


def request_options(request: Request) -> dict[str, Any]:
    """Options of one request, except its body."""
    # No write timeout: the orchestrator bounds how slowly a body may arrive.
    timeout = httpx.Timeout(_CONNECT_SECONDS, read=request.read_timeout, write=None)
    return {"params": dict(request.params), "headers": dict(request.headers), "timeout": timeout}


def retrying(request: Request, retries: int | None) -> dict[str, Any]:
    """Stamina's options: up to `retries` more attempts (None: any number) within a minute."""
    return {
        "on": _worth_another(request),
        "attempts": None if retries is None else retries + 1,
        "timeout": MAX_RETRYING,
    }


def _worth_another(request: Request) -> Callable[[Exception], bool | float]:
    def decide(error: Exception) -> bool | float:
        # Only what cannot execute twice: reads, and runs that the orchestrator says it did not start.
        if isinstance(error, Unreachable):
            return request.safe
        if of_gateway(error):
            return request.safe and not request.waits
        if isinstance(error, QueueFull | PluginUnavailable) and error.retry_after is not None and request.repeatable:
            return error.retry_after if error.retry_after <= _MAX_RETRY_AFTER else False
        return False

    return decide


@contextmanager
def translated(address: httpx.URL) -> Iterator[None]:
    """Turn the HTTP client's exceptions into this package's."""
    try:
        yield
    except ApiError:
        raise
    except (SSEError, ValueError) as error:  # before the HTTP client's own, of which SSEError is one
        raise UnexpectedAnswer(f"The answer of {_shown(address)} cannot be read. Is that the orchestrator?") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"No orchestrator answers at {_shown(address)}: {_text_of(error)}") from error
    except httpx.TimeoutException as error:
        raise Unreachable(f"The orchestrator at {_shown(address)} did not answer in time") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise Unreachable(f"The connection to {_shown(address)} broke: {_text_of(error)}") from error


def _shown(address: httpx.URL) -> str:
    return str(address).rstrip("/")


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
