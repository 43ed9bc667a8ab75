"""TLS of the orchestrator's own: a certificate and its key from files, read again when they change."""

import asyncio
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from orchestrator.errors import OrchestratorError

CHECK_SECONDS: Final = 5.0
"""Between two looks at the files."""
_SET_BY: Final = "ORCHESTRATOR_TLS_CERT, ORCHESTRATOR_TLS_KEY"
_MAX_BYTES: Final = 1024 * 1024

_log = logging.getLogger(__name__)


class CertificateError(OrchestratorError):
    """The certificate or its key cannot be read, or they do not belong together."""


class Certificate:
    """`context` serves new connections with what was read last; those that are open stay as they are."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """`key`: None where the certificate's file has it too. Raises `CertificateError`."""
        self._paths = (certificate, key or certificate)
        self._seen: list[bytes] = []
        self.context = _context()
        self.load()

    def load(self) -> bool:
        """Read the files. Returns whether they have changed. Raises `CertificateError`, with the former ones in use."""
        contents = [_read(path) for path in self._paths]
        if contents == self._seen:
            return False
        with _as_files(contents) as (certificate, key):
            try:
                # First into another one: a pair that does not fit would leave half of it behind.
                for context in (_context(), self.context):
                    context.load_cert_chain(certificate, key, password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                raise CertificateError(
                    f"{_SET_BY}: {self._paths[0]} and {self._paths[1]} cannot be used: {_words(error)}."
                ) from None
        self._seen = contents
        return True

    async def watch(self) -> None:
        """Load the files whenever they change, for ever."""
        said = ""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                if await asyncio.to_thread(self.load):
                    _log.info("the TLS certificate was renewed")
            except CertificateError as error:
                # While it is being renewed, one file is the new one and the other is not.
                if str(error) != said:
                    _log.warning("%s The former certificate stays in use.", error)
                said = str(error)
            else:
                said = ""


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise CertificateError(f"{_SET_BY}: {path} cannot be read: {error.strerror}.") from None


@contextmanager
def _as_files(contents: list[bytes]) -> Iterator[list[str]]:
    """Files of what was read, which nobody can change between two uses of it; on no disk."""
    with ExitStack() as stack:
        paths = []
        for content in contents:
            file = stack.enter_context(os.fdopen(os.memfd_create("tls"), "wb"))
            file.write(content)
            file.flush()
            paths.append(f"/proc/self/fd/{file.fileno()}")
        yield paths


def _no_password() -> str:
    # Else OpenSSL would ask for it on the terminal.
    raise ValueError("the key has a password, which a server that starts by itself cannot know")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or "no certificate in PEM"
