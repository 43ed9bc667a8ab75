"""What both clients' sending has in common: settings, time limits, retries, and foreign exceptions turned into ours."""

import ipaddress
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
from httpx_sse import SSEError

from orchestrator.client.errors import ApiError, PluginUnavailable, QueueFull, UnexpectedAnswer, Unreachable
from orchestrator.client.wire import Answer, Request

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8000"
_CONNECT: Final = 10.0
_LONGEST_PAUSE: Final = 30.0
"""Seconds: an orchestrator that wants to be asked later than this is not waited for."""
_RETRYING_ENDS: Final = 60.0
"""Seconds after which nothing is tried again."""


def connection_options(base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """The HTTP client's options."""
    url = httpx.URL(base_url or os.environ.get("ORCHESTRATOR_URL") or DEFAULT_ADDRESS)
    key = (api_key or os.environ.get("ORCHESTRATOR_API_KEY", "")).strip()
    here = _is_loopback(url.host)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "trust_env": not here,  # no proxy stands between two programs of one host
        "verify": url.scheme == "https",  # for plain HTTP the certificates need not be read
    }


def request_options(request: Request) -> dict[str, Any]:
    """All of the HTTP client's options for one request but its body. Sending has no bound: the orchestrator has one."""
    timeout = httpx.Timeout(_CONNECT, read=request.read_timeout, write=None)
    return {"params": dict(request.params), "headers": dict(request.headers), "timeout": timeout}


def retrying(request: Request, retries: int | None) -> dict[str, Any]:
    """Stamina's options: up to `retries` times more, any number where that is None, for a minute at the longest."""
    return {
        "on": _worth_another(request),
        "attempts": None if retries is None else retries + 1,
        "timeout": _RETRYING_ENDS,
    }


def _worth_another(request: Request) -> Callable[[Exception], bool | float]:
    """Only what cannot be done twice by that: reading, and a run that the orchestrator says it did not begin."""

    def decide(error: Exception) -> bool | float:
        if isinstance(error, Unreachable):
            return request.safe
        if isinstance(error, QueueFull | PluginUnavailable) and error.retry_after is not None and request.repeatable:
            return error.retry_after if error.retry_after <= _LONGEST_PAUSE else False
        return False

    return decide


def answer_of(response: httpx.Response) -> Answer:
    """A response that was read to its end."""
    return Answer(response.status_code, response.headers, response.content)


def error_in(response: httpx.Response) -> ApiError | None:
    """The error that a response stands for, if it does."""
    return None if response.is_success else answer_of(response).error()


@contextmanager
def translated(address: httpx.URL) -> Iterator[None]:
    """RunQueues the HTTP client's exceptions into this package's."""
    try:
        yield
    except ApiError:
        raise
    except (SSEError, ValueError) as error:  # before the HTTP client's own, of which SSEError is one
        raise UnexpectedAnswer(f"What {_shown(address)} sent cannot be read. Is that the orchestrator?") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"No orchestrator answers at {_shown(address)}: {_said(error)}") from error
    except httpx.TimeoutException as error:
        raise Unreachable(f"The orchestrator at {_shown(address)} gave no answer in time") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise Unreachable(f"The connection to {_shown(address)} broke: {_said(error)}") from error


def _shown(address: httpx.URL) -> str:
    return str(address).rstrip("/")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
