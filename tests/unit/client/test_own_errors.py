"""Whatever goes wrong between a program and the orchestrator is an `ApiError`."""

from __future__ import annotations

import contextlib
import gzip
import inspect
import socket
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from support.scripted_transport import ScriptedTransport, envelope
from unit.client.conftest import Caller

from orchestrator.client import ApiError, AsyncClient, Client, InvalidRequest, UnexpectedAnswer, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS = {
    "plugins": ("plugins",),
    "restart": ("restart", "echo"),
    "run": ("run", "echo", "say"),
    "stream": ("stream", "echo", "say"),
    "run_async": ("run_async", "echo", "say"),
    "logs": ("logs", "echo"),
    "events": ("events",),
    "watch": ("watch",),
}
ALL = pytest.mark.parametrize("method", CALLS)


def raised() -> list[Exception]:
    """One of every exception that httpx has."""
    kinds = [kind for kind in vars(httpx).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    made: list[Exception] = []
    for kind in kinds:
        if kind is httpx.HTTPStatusError:
            request = httpx.Request("GET", "http://x")
            made.append(kind("no", request=request, response=httpx.Response(500)))
        else:
            made.append(kind() if "message" not in inspect.signature(kind).parameters else kind("no"))
    return made


def test_every_exception_of_httpx_is_tried() -> None:
    kinds = {type(error) for error in raised()}
    assert {
        httpx.ReadTimeout,
        httpx.DecodingError,
        httpx.TooManyRedirects,
        httpx.InvalidURL,
        httpx.StreamClosed,
    } <= kinds


@ALL
@pytest.mark.parametrize("error", raised(), ids=lambda error: type(error).__name__)
async def test_an_exception_of_the_http_client_is_an_error_of_this_one(make, method, error):
    call = make("http://orchestrator", transport=ScriptedTransport(error), retries=0)
    with pytest.raises(ApiError) as caught:
        await call(*CALLS[method])
    assert caught.value.__cause__ is error


class OwnError(Exception):
    """As a signal's handler raises it in the middle of a call."""


@pytest.mark.parametrize("method", ["plugins", "run"])
async def test_an_exception_of_the_program_itself_passes_and_nothing_is_sent_again(make, method):
    transport = ScriptedTransport(OwnError())
    with pytest.raises(OwnError):
        await make("http://orchestrator", transport=transport)(*CALLS[method])
    assert len(transport.requests) == 1


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
REPLIES = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "a body that breaks off": HEAD + b"Content-Length: 100\r\n\r\n[1",
    "a chunk without length": HEAD + b"Transfer-Encoding: chunked\r\n\r\nnone\r\n",
    "what is not gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
    "no JSON": HEAD + b"Content-Length: 4\r\n\r\njunk",
    "no UTF-8": HEAD + b"Content-Length: 4\r\n\r\n\xff\xfe\xff\xfe",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no object and no list": HEAD + b"Content-Length: 1\r\n\r\n7",
    "deeper than Python reads": HEAD
    + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
    + gzip.compress(b"[" * 10**6),
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "a status that no one knows": b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    "a list of other things": HEAD + b"Content-Length: 6\r\n\r\n[1, 2]",
    "a stream of other things": b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 8\r\n\r\n"
    b"[1]\nx\n\n\n",
    "events of other things": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b"event: health\nid: \xc2\xb2\ndata: 7\n\n",
}


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """A server that sends every caller the same bytes, whatever was asked."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("reply", REPLIES)
async def test_what_no_orchestrator_says_is_an_error(make, method, reply):
    with answering(REPLIES[reply]) as address, pytest.raises(ApiError):
        await make(address, retries=0)(*CALLS[method])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore leaves the socket open
@pytest.mark.parametrize("kind", [httpx.HTTPTransport, httpx.AsyncHTTPTransport])
async def test_a_unix_socket_that_nobody_serves_is_unreachable(tmp_path, kind):
    transport = kind(uds=str(tmp_path / "none.sock"))
    client = (Client if kind is httpx.HTTPTransport else AsyncClient)("http://orchestrator", transport=transport)
    with pytest.raises(Unreachable, match="No orchestrator answers"):
        await Caller(client)("plugins")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address", ["nonsense", "ftp://x", "http://", "http://x:port", "http://[::1", 5, "http://\ud800", "http://x\n"]
)
def test_what_is_no_address_is_refused_at_once(kind, address):
    with pytest.raises(InvalidRequest, match="is no address"):
        kind(address)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["k\u00e4y", "a\nb", "\ud800"])
def test_what_can_be_no_key_is_refused_at_once_without_naming_it(kind, key):
    with pytest.raises(InvalidRequest, match="key") as caught:
        kind("http://orchestrator", key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_certificates_that_are_not_there_are_an_error(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InvalidRequest):
        kind("https://orchestrator")


async def test_a_password_in_the_address_is_in_no_error(make):
    call = make("http://user:pa55@orchestrator", transport=ScriptedTransport(httpx.ConnectError("no")), retries=0)
    with pytest.raises(Unreachable) as caught:
        await call("plugins")
    assert "pa55" not in str(caught.value) and "http://orchestrator" in str(caught.value)


@ALL
async def test_a_client_that_was_closed_says_so(make, method):
    call = make("http://orchestrator", transport=ScriptedTransport(envelope()))
    if isinstance(call.client, AsyncClient):
        await call.client.aclose()
    else:
        call.client.close()
    with pytest.raises(InvalidRequest, match="closed"):
        await call(*CALLS[method])


@pytest.mark.parametrize("name", [5, None, b"echo", "\ud800", object()])
async def test_a_name_that_is_no_text_is_refused(make, name):
    transport = ScriptedTransport(envelope())
    for method in (("health", name), ("run", name, "say"), ("run", "echo", name), ("stream", name, "say")):
        with pytest.raises(InvalidRequest):
            await make("http://orchestrator", transport=transport)(*method)
    assert transport.requests == []


@pytest.mark.parametrize("seconds", [float("nan"), "soon", object(), [1]])
async def test_a_time_that_is_no_number_is_refused(make, seconds):
    transport = ScriptedTransport(envelope())
    call = make("http://orchestrator", transport=transport)
    with pytest.raises(InvalidRequest):
        await call("restart", "echo", wait=seconds)
    for method in ("result", "wait"):
        with pytest.raises(InvalidRequest):
            await call.of(call.client.handle("7f"), method, seconds)
    assert transport.requests == []


def page(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, html="<html>...</html>", headers=headers)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (page(200), "status 200 and is an HTML page.*log in"),
        (
            page(413),
            "status 413 and is an HTML page.*A proxy before it refuses a body of this size.*client_max_body_size",
        ),
        (httpx.Response(413), "A proxy before it refuses a body of this size"),
        (httpx.Response(302, headers={"location": "https://login.example/"}), "redirects to https://login.example/"),
        (page(502), "status 502.*A proxy may have answered in its stead"),
        (httpx.Response(504, json={"message": "The upstream server is timing out"}), "504.*A proxy may have"),
        (httpx.Response(503, json={"status": 503, "error": "Service Unavailable"}), "503.*A proxy may have"),
    ],
)
@pytest.mark.parametrize("method", ["run", "stream", "run_async", "plugins", "logs"])
async def test_what_a_proxy_says_is_not_taken_for_the_orchestrators_word(make, method, answer, sentence):
    call = make("http://orchestrator", transport=ScriptedTransport(answer), retries=0)
    with pytest.raises(UnexpectedAnswer, match=sentence) as caught:
        await call(*CALLS[method])
    assert caught.value.status == answer.status_code


async def test_an_upload_that_is_too_large_for_the_orchestrator_itself_is_its_own_error(make):
    answer = envelope(413, error="over the limit", error_type="TooLarge")
    with pytest.raises(InvalidRequest, match="over the limit"):
        await make("http://orchestrator", transport=ScriptedTransport(answer))("run", "echo", "say", file=b"1")


async def test_nothing_of_an_error_shows_more_than_a_line_of_a_callers_value(make):
    with pytest.raises(InvalidRequest) as caught:
        await make("http://orchestrator", transport=ScriptedTransport(envelope()))("health", 10**4000)
    assert len(str(caught.value)) < 300
