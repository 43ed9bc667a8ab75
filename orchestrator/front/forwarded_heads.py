"""Heads of requests and answers as a front passes them on, without what is of one connection alone. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from orchestrator.access.delegation import HEADER as ON_BEHALF
from orchestrator.api.request_headers import FRONT_RUN_ID

HOST_HEADER: Final = b"x-host"
"""Names the host that answered, or that a caller wants to be answered by."""
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Of one connection (RFC 9110, 7.6.1)."""
_NOT_PASSED_ON: Final = _HOP_BY_HOP | {
    # Of the caller and the front alone: the host gets the front's own.
    b"authorization",
    b"cookie",
    b"content-length",
    b"expect",
    b"host",
    b"origin",
    b"referer",
    b"sec-fetch-site",
    FRONT_RUN_ID.encode(),
    HOST_HEADER,
    ON_BEHALF.encode(),
}
_NOT_ANSWERED: Final = _HOP_BY_HOP | {b"date", b"server"}
_LOCATIONS: Final = frozenset({b"location", b"content-location"})


def request_head(
    method: str,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    own: Iterable[tuple[bytes, bytes]],
    *,
    length: int | None,
    dropped: frozenset[bytes] = frozenset(),
) -> bytes:
    """The head of the request that a host gets. `headers`: the caller's, with lower-case names; `own`: the front's.

    `length`: of the body in bytes, None for one that is sent in chunks; 0 with a method that has none is not written.
    `dropped`: names that are not passed on either.
    """
    named: set[bytes] = set()
    passed = []
    for name, value in headers:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
        elif name not in _NOT_PASSED_ON and name not in dropped and not name.startswith(b"x-forwarded-"):
            passed.append((name, value))
    lines = [b"%b %b HTTP/1.1\r\n" % (method.encode(), target)]
    lines += [b"%b: %b\r\n" % header for header in own]
    lines += [b"%b: %b\r\n" % (name, value) for name, value in passed if name not in named]
    if length is None:
        lines.append(b"transfer-encoding: chunked\r\n")
    elif length or method not in ("GET", "HEAD"):
        lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def answer_headers(
    fields: Mapping[bytes, bytes], host: str, *, base_path: str = "", root: str = ""
) -> list[tuple[bytes, bytes]]:
    """The headers of the answer that the caller gets. A path that leads to the host's API leads to the front's.

    `base_path`: below which the host shows its routes; `root`: below which the front does.
    """
    named = {token.strip().lower() for token in fields.get(b"connection", b"").split(b",")}
    headers = []
    for name, value in fields.items():
        if name in _NOT_ANSWERED or name in named:
            continue
        headers.append((name, _moved(value, base_path, root) if name in _LOCATIONS else value))
    headers.append((HOST_HEADER, host.encode()))
    return headers


def _moved(location: bytes, base_path: str, root: str) -> bytes:
    before = base_path.encode()
    return root.encode() + location.removeprefix(before) if location.startswith(before + b"/") else location
