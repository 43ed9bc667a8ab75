"""Requests and answers as values, and httpx's options, retry rules and exceptions for them. Nothing is sent here."""

import ipaddress
import json
import logging
import os
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
from httpx_sse import SSEError

from orchestrator.client import arguments
from orchestrator.client.errors import (
    ApiError,
    CertificateRefused,
    InvalidRequest,
    PluginUnavailable,
    QueueFull,
    UnexpectedAnswer,
    Unreachable,
    error_of,
)

_log = logging.getLogger("orchestrator.client")
_log.addHandler(logging.NullHandler())
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
    `delay`: seconds to wait before it is sent. `waits`: the operation itself sends another one after the error of a
    proxy.
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
        except (ValueError, RecursionError):
            raise self._unexpected("is no JSON") from None

    def as_object(self) -> Any:
        """A JSON object. Raises `UnexpectedAnswer`."""
        content = self.json()
        if not isinstance(content, dict):
            raise self._unexpected("is not an object")
        return content

    def as_list(self) -> list[Any]:
        """A JSON list of objects. Raises `UnexpectedAnswer`."""
        content = self.json()
        if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
            raise self._unexpected("is not a list of objects")
        return content

    def as_envelope(self) -> Any:
        """The envelope of a run that gave a result. Raises `UnexpectedAnswer`."""
        content = self.as_object()
        if not content.get("ok") or "result" not in content:
            raise self._unexpected("has no envelope")
        return content

    def error(self) -> ApiError | None:
        """The error that the answer means, None if it is a success."""
        if 200 <= self.status < 300:
            return None
        try:
            envelope = self.as_object()
        except UnexpectedAnswer as error:
            return error
        # Proxies answer in JSON too, some with a field `error`.
        if "error" not in envelope or (self.status in _GATEWAY_STATUSES and "ok" not in envelope):
            return self._unexpected("has no envelope")
        return error_of(self.status, envelope, retry_after=_seconds(self.headers.get("retry-after")))

    def expect_text(self) -> None:
        """Raises `UnexpectedAnswer` where it is not plain text."""
        if not _media_type(self.headers).startswith("text/plain"):
            raise self._unexpected("is not plain text")

    def _unexpected(self, what: str) -> UnexpectedAnswer:
        found = "is an HTML page" if _media_type(self.headers) == "text/html" else what
        sentence = f"The answer has status {self.status} and {found}. Is that the orchestrator?"
        return UnexpectedAnswer(f"{sentence}{_by_a_proxy(self.status, self.headers)}", status=self.status)


def _by_a_proxy(status: int, headers: Mapping[str, str]) -> str:
    """Why a proxy may have answered, as a sentence to append."""
    if status in _GATEWAY_STATUSES:
        return " A proxy may have answered in its stead."
    if status == 413:
        return " A proxy before it refuses a body of this size; raise its limit (nginx: client_max_body_size)."
    if 300 <= status < 400:
        return f" It redirects to {headers.get('location', 'nowhere')[:200]}."
    if _media_type(headers) == "text/html":
        return " It may be the page of a proxy, such as one to log in."
    return ""


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def of_gateway(error: Exception) -> bool:
    """Whether it is the answer of a proxy that reached no orchestrator, or stopped waiting for it."""
    return isinstance(error, UnexpectedAnswer) and error.status in _GATEWAY_STATUSES


def answer_of(response: httpx.Response) -> Answer:
    """The answer in a response whose body has been read."""
    return Answer(response.status_code, response.headers, response.content)


def head_of(response: httpx.Response) -> Answer:
    """The answer in a response whose body is still to come."""
    return Answer(response.status_code, response.headers, b"")


def error_in(response: httpx.Response) -> ApiError | None:
    """The error that a response means, None if it is a success."""
    return None if response.is_success else answer_of(response).error()


def segment(text: str) -> str:
    """`text` as one segment of a path: no name leads to another route. Raises `InvalidRequest`."""
    if not isinstance(text, str):
        raise _unsendable(f"A name or an id has to be a text, not {type(text).__name__}")
    try:
        quoted = quote(text, safe="")
    except UnicodeError:
        raise _unsendable(f"{text!r:.100} is no UTF-8 text") from None
    return quoted.replace(".", "%2E") if set(text) == {"."} else quoted


def connection_options(base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """Options of the HTTP client. Raises `InvalidRequest` for what is no address or no key."""
    address = base_url or os.environ.get("ORCHESTRATOR_URL") or DEFAULT_ADDRESS
    try:
        url = httpx.URL(address)  # what is neither text nor a URL raises TypeError, with a sentence
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise _unsendable(f"The base URL is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise _unsendable(f"The base URL {_shown(url)!r:.200} is no address such as {DEFAULT_ADDRESS}")
    key = str(api_key or os.environ.get("ORCHESTRATOR_API_KEY", "")).strip()
    if not (key.isascii() and key.isprintable()):
        raise _unsendable("The API key holds characters that no key has")
    here = _is_loopback(url.host)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "trust_env": not here,  # no proxy stands between two programs of one host
        # Here too by SSL_CERT_FILE, which has nothing to do with proxies. Plain HTTP need not load the certificates.
        "verify": httpx.create_ssl_context() if url.scheme == "https" else False,
    }


def request_options(request: Request) -> dict[str, Any]:
    """Options of one request, except its body."""
    # No write timeout: the orchestrator bounds how slowly a body may arrive.
    timeout = httpx.Timeout(_CONNECT_SECONDS, read=request.read_timeout, write=None)
    return {"params": dict(request.params), "headers": dict(request.headers), "timeout": timeout}


class Retries:
    """Whether and when a request is sent again: up to `limit` more times (None: any number) within a minute."""

    # Own code: tenacity catches KeyboardInterrupt between attempts, and stamina over it tells the program's structlog
    # and Prometheus of each retry, and obeys its switches.

    def __init__(self, request: Request, limit: int | None) -> None:
        self._request = request
        self._limit = limit
        self._attempts = 0
        self._end = time.monotonic() + MAX_RETRYING

    def pause_after(self, error: ApiError) -> float | None:
        """Seconds until the next attempt, None if there is none."""
        self._attempts += 1
        if self._limit is not None and self._attempts > self._limit:
            return None
        pause = self._pause(error)
        if pause is None or time.monotonic() + pause > self._end:
            return None
        _log.warning("%s %s is sent again in %.1f s: %s", self._request.method, self._request.path, pause, error)
        return pause

    def _pause(self, error: ApiError) -> float | None:
        # Only what cannot execute twice: reads, and runs that the orchestrator says it did not start.
        request = self._request
        if isinstance(error, Unreachable):
            return _backoff(self._attempts) if request.safe else None
        if of_gateway(error):
            return _backoff(self._attempts) if request.safe and not request.waits else None
        if isinstance(error, QueueFull | PluginUnavailable) and error.retry_after is not None and request.repeatable:
            return error.retry_after if error.retry_after <= _MAX_RETRY_AFTER else None
        return None


def _backoff(attempts: int) -> float:
    """Seconds: doubled each time, and with jitter, lest many clients come back at once."""
    return min(0.1 * 2.0 ** min(attempts - 1, 10) + random.random(), 5.0)  # noqa: S311 - no secret


@contextmanager
def preparing() -> Iterator[None]:
    """Turn what arises while a request is made of a program's values into `InvalidRequest`."""
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        raise _unsendable(f"The request cannot be made: {_text_of(error)}") from error


def refuse_if_closed(client: httpx.Client | httpx.AsyncClient) -> None:
    """Raises `InvalidRequest`."""
    if client.is_closed:
        raise _unsendable("The client is closed")


@contextmanager
def translated(address: httpx.URL) -> Iterator[None]:
    """Turn the HTTP client's exceptions into this package's."""
    # Not every Exception: a program's own, raised by a signal's handler, passes.
    try:
        yield
    except ApiError:
        raise
    except (SSEError, ValueError, httpx.DecodingError, httpx.TooManyRedirects) as error:
        # Before the HTTP client's own, of which some are kinds.
        raise UnexpectedAnswer(f"The answer of {_shown(address)} cannot be read. Is that the orchestrator?") from error
    except httpx.ConnectError as error:
        if (sentence := _tls_problem(error, address)) is not None:
            raise CertificateRefused(sentence) from error
        raise Unreachable(f"No orchestrator answers at {_shown(address)}: {_text_of(error)}") from error
    except httpx.ConnectTimeout as error:
        raise Unreachable(f"No orchestrator answers at {_shown(address)}: {_text_of(error)}") from error
    except httpx.TimeoutException as error:
        raise Unreachable(f"The orchestrator at {_shown(address)} did not answer in time") from error
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
        sentence = f"The request to {_shown(address)} cannot be sent whole: {_text_of(error)}"
        raise InvalidRequest(sentence, envelope=_INVALID) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, RuntimeError) as error:
        # RuntimeError: httpx.StreamError; a client closed meanwhile; an event loop other than the client's.
        raise Unreachable(f"The connection to {_shown(address)} broke: {_text_of(error)}") from error


_INVALID: Final = {"error_type": "InvalidArgument"}


def _unsendable(sentence: str) -> InvalidRequest:
    return InvalidRequest(f"{sentence}. Nothing was sent.", envelope=_INVALID)


def _shown(address: httpx.URL) -> str:
    return str(address.copy_with(userinfo=b"")).rstrip("/")


def _tls_problem(error: Exception, address: httpx.URL) -> str | None:
    """Why there is no TLS with whatever answers, as a sentence; None where that is not what went wrong."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ssl.SSLError):
        found = found.__cause__ or found.__context__
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {_shown(address)} is not trusted ({found.verify_message}). Set SSL_CERT_FILE to a "
            "file with that certificate, or with its authority's, and call it by a name that it has"
        )
    reason = (found.reason or str(found)).lower().replace("_", " ")
    return f"{_shown(address)} does not speak TLS as expected ({reason}). If it serves plain HTTP, call it by http://"


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
