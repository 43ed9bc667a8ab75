"""What of a request and an answer is passed on."""

import pytest

from orchestrator.front.forwarded_heads import answer_headers, request_head

OWN = ((b"host", b"10.0.0.1:8000"), (b"authorization", b"Bearer front"))


def passed(*headers: tuple[bytes, bytes], method: str = "POST", length: int | None = 2) -> list[str]:
    head = request_head(method, b"/v1/x?y=1", headers, OWN, length=length, dropped=frozenset({b"x-user"}))
    assert head.endswith(b"\r\n\r\n")
    return head.decode().strip().split("\r\n")


def test_a_request_as_the_host_gets_it() -> None:
    lines = passed((b"accept", b"image/png"), (b"content-type", b"application/json"), (b"x-run-id", b"1"))
    assert lines == [
        "POST /v1/x?y=1 HTTP/1.1",
        "host: 10.0.0.1:8000",
        "authorization: Bearer front",
        "accept: image/png",
        "content-type: application/json",
        "x-run-id: 1",
        "content-length: 2",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "connection", "content-length", "expect", "host", "keep-alive", "origin", "te",
        "transfer-encoding", "upgrade", "proxy-authorization", "sec-fetch-site", "x-forwarded-for",
        "x-forwarded-user", "x-front-run-id", "x-host", "x-orchestrator-caller", "x-user",
    ],
)  # fmt: skip
def test_what_is_of_the_caller_or_its_connection_stays(name: str) -> None:
    """No caller can speak to a host as the front, or as another caller."""
    lines = passed((name.encode(), b"whatever"))
    assert not any("whatever" in line for line in lines)


def test_what_the_connection_header_names_stays_too() -> None:
    lines = passed((b"connection", b"close, X-Private"), (b"x-private", b"1"), (b"x-public", b"2"))
    assert "x-public: 2" in lines and not any("x-private" in line for line in lines)


@pytest.mark.parametrize(
    ("method", "length", "line"),
    [("POST", None, "transfer-encoding: chunked"), ("POST", 0, "content-length: 0"), ("GET", 0, None)],
)
def test_a_body_is_announced(method: str, length: int | None, line: str | None) -> None:
    last = passed(method=method, length=length)[-1]
    assert last == (line or "authorization: Bearer front")


def test_an_answer_as_the_caller_gets_it() -> None:
    fields = {
        b"content-type": b"application/json",
        b"content-length": b"2",
        b"connection": b"keep-alive, x-private",
        b"x-private": b"1",
        b"date": b"today",
        b"transfer-encoding": b"chunked",
        b"retry-after": b"1",
    }
    assert dict(answer_headers(fields, "gpu-1")) == {
        b"content-type": b"application/json",
        b"content-length": b"2",
        b"retry-after": b"1",
        b"x-host": b"gpu-1",
    }


@pytest.mark.parametrize(
    ("location", "base", "root", "expected"),
    [
        ("/v1/runs/1", "", "", "/v1/runs/1"),
        ("/v1/runs/1", "", "/front", "/front/v1/runs/1"),
        ("/host/v1/runs/1", "/host", "/front", "/front/v1/runs/1"),
        ("/hosts/v1", "/host", "/front", "/hosts/v1"),
        ("https://elsewhere/", "", "/front", "https://elsewhere/"),
    ],
)
def test_a_location_leads_to_the_front(location: str, base: str, root: str, expected: str) -> None:
    found = dict(answer_headers({b"location": location.encode()}, "a", base_path=base, root=root))
    assert found[b"location"] == expected.encode()
