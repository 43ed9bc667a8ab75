"""One transfer: from one address to the end of a partial file."""

import logging
import os
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from orchestrator.formatting import format_size
from orchestrator.models.credentials import HostCredentials, read_netrc
from orchestrator.models.plan import RateFloor, judge_answer, missing_space, resume_headers, validator_of
from orchestrator.models.sources import local_path, may_follow, shown_url, without_credentials
from orchestrator.models.store import CHUNK, ModelStore, ModelStoreError, Partial

_TIMEOUT: Final = httpx.Timeout(30.0, connect=15.0)
"""Seconds without a single byte, after which the transfer broke off."""
_MAX_REDIRECTS: Final = 10
_SPACE_INTERVAL: Final = 64 * CHUNK
"""Bytes between two looks at the free space, where the size of the file is not known before."""


class TransferError(Exception):
    """An address did not give the file. `transient`: it may the next time, after `delay` seconds where it says so.
    `too_slow`: the bytes that came do not count as going forward.
    """

    def __init__(
        self, reason: str, *, transient: bool = False, delay: float | None = None, too_slow: bool = False
    ) -> None:
        super().__init__(reason)
        self.transient = transient
        self.delay = delay
        self.too_slow = too_slow


def http_client(ca_bundle: Path | None, tokens: Mapping[str, str] | None = None) -> httpx.Client:
    """The client for transfers: proxies by the environment's HTTP_PROXY and the like, certificates by `ca_bundle`,
    credentials by `HostCredentials` with `tokens`. Raises `NetrcError`.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs addresses with their credentials
    verify = ssl.create_default_context(cafile=ca_bundle) if ca_bundle is not None else True
    return httpx.Client(verify=verify, timeout=_TIMEOUT, auth=HostCredentials(tokens or {}, read_netrc(os.environ)))


def transfer(client: httpx.Client, store: ModelStore, partial: Partial, url: str, on_bytes: Callable[[], None]) -> None:
    """Bring what `partial` lacks from `url`; returns at the end of what the address has. `on_bytes` is called after
    each piece. Raises `TransferError`, `ModelStoreError`.
    """
    if urlsplit(url).scheme == "file":
        _copy(store, partial, url, on_bytes)
    else:
        with _http_errors():
            _download(client, store, partial, url, on_bytes)


def _download(
    client: httpx.Client, store: ModelStore, partial: Partial, url: str, on_bytes: Callable[[], None]
) -> None:
    headers = resume_headers(partial.size, shown_url(url), partial.url, partial.validator)
    with _response(client, url, headers) as response:
        answer = judge_answer(response.status_code, response.headers, partial.size, datetime.now(UTC))
        if answer.action in {"append", "restart"}:
            begun = shown_url(url), validator_of(response.headers), answer.total
            partial.begin(*begun, restart=answer.action == "restart")
            # As they come: what a larger piece would collect is lost where the connection breaks.
            _receive(store, partial, _fast_enough(response.iter_raw()), on_bytes)
            return
    if answer.action == "again":
        partial.rewind()
        _download(client, store, partial, url, on_bytes)
    else:
        raise TransferError(answer.reason, transient=answer.transient, delay=answer.delay)


@contextmanager
def _response(client: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer, after redirects."""
    # Compressed, the bytes of a range would be those of another file.
    request = client.build_request("GET", url, headers={"Accept-Encoding": "identity", **headers})
    for _ in range(_MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
        finally:
            response.close()
        request = response.next_request
        if not may_follow(url, request.url.scheme):
            raise TransferError(f"it redirects to {shown_url(str(request.url))}, which is not followed")
    raise TransferError(f"it redirects more than {_MAX_REDIRECTS} times")


def _receive(store: ModelStore, partial: Partial, chunks: Iterator[bytes], on_bytes: Callable[[], None]) -> None:
    if partial.total is not None:
        _check_space(store, partial, partial.total - partial.size)
    next_look = partial.size + _SPACE_INTERVAL
    for chunk in chunks:
        partial.append(chunk)
        on_bytes()
        if partial.total is None and partial.size >= next_look:
            _check_space(store, partial, _SPACE_INTERVAL)
            next_look = partial.size + _SPACE_INTERVAL
    if partial.total is not None and partial.size < partial.total:
        got, whole = format_size(partial.size), format_size(partial.total)
        raise TransferError(f"the connection ended after {got} of {whole}", transient=True)


def _fast_enough(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, as long as they come at a rate by which a file is ever complete."""
    floor = RateFloor(time.monotonic())
    for chunk in chunks:
        yield chunk
        if problem := floor.add(len(chunk), time.monotonic()):
            raise TransferError(problem, transient=True, too_slow=True)


def _check_space(store: ModelStore, partial: Partial, needed: int) -> None:
    lacking = missing_space(store.free_bytes(), needed)
    if lacking:
        raise ModelStoreError(
            f"The disk of the model store {store.root} has too little space: {format_size(needed)} of"
            f" {partial.sha256[:12]}… are still to come, {format_size(lacking)} too much. Free space, or set"
            " ORCHESTRATOR_MODELS_DIR to a larger disk; a pull then goes on where it stopped."
        )


def _copy(store: ModelStore, partial: Partial, url: str, on_bytes: Callable[[], None]) -> None:
    try:
        # Without waiting, as opening a named pipe would.
        descriptor = os.open(local_path(url), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TransferError(f"it cannot be opened: {error.strerror}") from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise TransferError("it is not a regular file")
        partial.begin(shown_url(url), "", info.st_size, restart=partial.size > info.st_size)
        _receive(store, partial, _chunks(descriptor, partial.size), on_bytes)
    finally:
        os.close(descriptor)


def _chunks(descriptor: int, start: int) -> Iterator[bytes]:
    try:
        while chunk := os.pread(descriptor, CHUNK, start):
            start += len(chunk)
            yield chunk
    except OSError as error:
        raise TransferError(f"it cannot be read: {error.strerror}") from None


@contextmanager
def _http_errors() -> Iterator[None]:
    try:
        yield
    except httpx.InvalidURL as error:
        raise TransferError(f"its address is not valid: {error}") from None
    except httpx.TransportError as error:
        if certificate := _certificate_error(error):
            raise TransferError(
                f"its certificate is not trusted ({certificate}); ORCHESTRATOR_CA_BUNDLE names the file of the"
                " certificates to trust"
            ) from None
        reason = without_credentials(re.sub(r"\[Errno -?\d+\] ", "", str(error))) or type(error).__name__
        raise TransferError(reason[:1].lower() + reason[1:], transient=True) from None


def _certificate_error(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return ""
