"""Addresses of models: which are allowed, and that no credentials of theirs are shown."""

import pytest

from orchestrator.models.sources import check_url, local_path, may_follow, shown_url, without_credentials


@pytest.mark.parametrize(
    "url",
    [
        "https://host/w.onnx",
        "https://user:password@host:8443/a/b?token=1#x",
        "http://mirror/w.onnx",
        "http://[::1]:80/w",
        "file:///srv/w.onnx",
        "file://localhost/srv/w%20x.onnx",
        "https://bücher.example/w",
    ],
)
def test_these_are_allowed(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "w.onnx",
        "/srv/w.onnx",
        "ftp://host/w",
        "s3://bucket/w",
        "https://",
        "https:///w",
        "https://host:99999/w",
        "https://host:port/w",
        "https://[::1/w",
        "https://host/w x",
        "https://host/w\n",
        "https://host/" + "w" * 3000,
        "http://user:secret@host/w",
        "http://secret@host/w",
        "file://host/srv/w",
        "file:w",
        "file:///srv/%00",
        "javascript:alert(1)",
    ],
)
def test_these_are_refused_without_their_credentials(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_url(url)
    assert str(caught.value).startswith(("an ", "https where", "file:///"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host:1/a/w.onnx?X-Signature=secret#secret", "https://host:1/a/w.onnx?…"),
        ("https://secret@host/w", "https://host/w"),
        ("https://a@secret@host/w", "https://host/w"),
        ("https://[::1/secret", "…"),
        ("file:///srv/w.onnx", "file:///srv/w.onnx"),
    ],
)
def test_an_address_is_shown_without_what_may_be_a_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert without_credentials(f"see '{url}', twice {url}") == f"see '{shown}', twice {shown}"


def test_a_file_address_is_a_path() -> None:
    assert local_path("file:///srv/my%20models/w.onnx") == "/srv/my models/w.onnx"


def test_redirects_never_lead_to_a_file_or_down_to_http() -> None:
    assert may_follow("https://h/", "https") and may_follow("http://h/", "https") and may_follow("http://h/", "http")
    assert not may_follow("https://h/", "http")
    assert not may_follow("http://h/", "file")
