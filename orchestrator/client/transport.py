"""Requests and answers as values, and httpx's options, retry rules and exceptions for them. Nothing is sent here."""

import ipaddress
import json
import mimetypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

import httpx
from httpx_sse import SSEError

from orchestrator.client.errors import (
    ApiError,
    PluginUnavailable,
    QueueFull,
    UnexpectedAnswer,
    Unreachable,
    error_of,
)
from orchestrator.client.models import FormText, Upload

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8000"
_CONNECT_SECONDS: Final = 10.0
_MAX_RETRY_AFTER: Final = 30.0
"""Seconds; a request with a longer Retry-After is not sent again."""
_MAX_RETRYING: Final = 60.0
"""Seconds after the first attempt in which a request may be sent again."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `arguments`: those of a tool.

    `read_timeout`: seconds to wait for each piece of the answer; None where the orchestrator bounds the wait itself.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = None
    read_timeout: float | None = 30.0

    @property
    def safe(self) -> bool:
        """Whether sending it again does no harm."""
        return self.method == "GET"

    @property
    def repeatable(self) -> bool:
        """Whether its body can be read a second time."""
        files = (_upload(value).content for value in (self.arguments or {}).values() if _is_upload(value))
        return all(isinstance(content, bytes | bytearray | os.PathLike) or content.seekable() for content in files)


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
                f"The answer has status {self.status} and is no JSON. Is that the orchestrator?", status=self.status
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
                f"The answer has status {self.status} and no envelope. Is that the orchestrator?", status=self.status
            )
        return error_of(self.status, envelope, retry_after=_seconds(self.headers.get("retry-after")))


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


def body_options(arguments: Mapping[str, Any] | None, files: ExitStack) -> dict[str, Any]:
    """Options for a tool's arguments: JSON, or multipart if one is a file. Opened files are closed by `files`."""
    if arguments is None:
        return {}
    if not any(_is_upload(value) or _is_typed(value) for value in arguments.values()):
        return {"json": dict(arguments)}
    fields: list[tuple[str, Any]] = []
    for name, value in arguments.items():
        if _is_upload(value):
            fields.append((name, _file_field(name, _upload(value), files)))
        else:
            # A plugin knows its parameters' types: a text goes as it is, anything else as JSON.
            for one in value if _is_typed(value) and not isinstance(value, str) else [value]:
                text = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
                fields.append((name, (None, text.encode(), "text/plain; charset=utf-8")))
    return {"files": fields}


def retrying(request: Request, retries: int | None) -> dict[str, Any]:
    """Stamina's options: up to `retries` more attempts (None: any number) within a minute."""
    return {
        "on": _worth_another(request),
        "attempts": None if retries is None else retries + 1,
        "timeout": _MAX_RETRYING,
    }


def _worth_another(request: Request) -> Callable[[Exception], bool | float]:
    def decide(error: Exception) -> bool | float:
        # Only what cannot execute twice: reads, and runs that the orchestrator says it did not start.
        if isinstance(error, Unreachable):
            return request.safe
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


def _is_upload(value: Any) -> bool:
    return isinstance(value, Upload | bytes | bytearray | os.PathLike) or hasattr(value, "read")


def _is_typed(value: Any) -> bool:
    return isinstance(value, FormText) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, FormText) for one in value)
    )


def _upload(value: Any) -> Upload:
    return value if isinstance(value, Upload) else Upload(value)


def _file_field(name: str, upload: Upload, files: ExitStack) -> tuple[str, Any, str]:
    content = upload.content
    filename = upload.filename
    if isinstance(content, os.PathLike):
        filename = filename or Path(content).name
        content = files.enter_context(open(content, "rb"))  # noqa: PTH123, SIM115 - `files` closes it
    elif isinstance(content, bytes | bytearray):
        content = bytes(content)
    else:
        path = getattr(content, "name", "")
        filename = filename or (Path(path).name if isinstance(path, str) else "")
        if content.seekable():
            content.seek(0)
        else:
            content = _Unsized(content)  # type: ignore[assignment]
    kind = upload.content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    return (filename or name, content, kind)


class _Unsized:
    """A pipe or socket with `read` alone: from its `fileno` httpx would read a length of 0."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
