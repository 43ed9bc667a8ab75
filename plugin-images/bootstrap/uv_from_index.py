# ruff: noqa: INP001 - a script, run by path
"""Fetch uv's wheel from a package index with the standard library alone: for a Python that has neither venv nor pip.

Usage: uv_from_index.py VERSION TARGET. Honours PIP_INDEX_URL, PIP_CERT, SSL_CERT_FILE and the proxy variables.
"""

import hashlib
import io
import os
import platform
import ssl
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin
from urllib.request import urlopen

INDEX = "https://pypi.org/simple"


class Links(HTMLParser):
    """The links of an index page (PEP 503): hrefs, each with its hash as the fragment."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the href of each anchor."""
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def get(url: str) -> bytes:
    """The body at `url`, over the certificates that pip or Python is told to trust."""
    trusted = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=trusted or None)
    with urlopen(url, timeout=60, context=context) as answer:  # noqa: S310 - the user's own index
        body: bytes = answer.read()
        return body


def fits(file_name: str, version: str) -> bool:
    """Whether it is the wheel of this version for this machine and its C library."""
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return (
        file_name.startswith(f"uv-{version}-")
        and libc in file_name
        and file_name.endswith(f"_{platform.machine()}.whl")
    )


def main(version: str, target: Path) -> None:
    """Put the executable of that version at `target`; exit with a message where the index does not have it."""
    page = os.environ.get("PIP_INDEX_URL", INDEX).rstrip("/") + "/uv/"
    links = Links()
    links.feed(get(page).decode())
    wheels = [href for href in links.hrefs if fits(urldefrag(href).url.rsplit("/", 1)[-1], version)]
    if not wheels:
        sys.exit(f"{page} has no wheel of uv {version} for {platform.machine()}")
    url, fragment = urldefrag(urljoin(page, wheels[0]))
    wheel = get(url)
    if fragment.startswith("sha256=") and hashlib.sha256(wheel).hexdigest() != fragment.removeprefix("sha256="):
        sys.exit(f"{url} does not have the hash that the index says")
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        target.write_bytes(archive.read(f"uv-{version}.data/scripts/uv"))
    target.chmod(0o755)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
