"""Addresses of model files: which are allowed, and how they are shown. Pure."""

import re
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

MAX_URL_LENGTH: Final = 2048
_HIDDEN: Final = "…"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*")


def check_url(url: str) -> None:
    """Raises `ValueError`, whose text completes "expected …" and shows no credentials."""
    if len(url) > MAX_URL_LENGTH or not url.isprintable() or " " in url:
        raise ValueError(f"an address of at most {MAX_URL_LENGTH} characters without spaces")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("an address such as https://host/model.onnx") from None
    match parts.scheme:
        case "https" | "http":
            # The SHA-256 proves the bytes, whoever is between; a password has no such proof.
            if parts.scheme == "http" and "@" in parts.netloc:
                raise ValueError(f"https where the address has credentials, not {shown_url(url)}")
            if not host:
                raise ValueError(f"an address with a host, not {shown_url(url)}")
        case "file":
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or "\0" in unquote(parts.path):
                raise ValueError(f"file:///absolute/path, not {shown_url(url)}")
        case _:
            raise ValueError(f"an https:// or file:// address, not {shown_url(url)}")


def shown_url(url: str) -> str:
    """The URL for people, logs and files: without user, password, query and fragment, which may be credentials."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _HIDDEN
    query = _HIDDEN if parts.query else ""
    return urlunsplit(SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def without_credentials(text: str) -> str:
    """Text with every URL in it as `shown_url` has it."""
    return _URL.sub(lambda found: shown_url(found[0]), text)


def shown_host(url: str) -> str:
    """Where a URL leads, in one word: its host; `this machine` for a file."""
    parts = urlsplit(url)
    return "this machine" if parts.scheme == "file" else parts.netloc.rpartition("@")[2]


def local_path(url: str) -> str:
    """The path of a file:// URL."""
    return unquote(urlsplit(url).path)


def may_follow(url: str, target_scheme: str) -> bool:
    """Whether a redirect from `url` to that scheme is followed: never to a file, never from https down to http."""
    return target_scheme == "https" or (target_scheme == "http" and urlsplit(url).scheme == "http")
