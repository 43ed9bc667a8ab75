"""Credentials of the hosts that models come from: those in the address, else a token, else what netrc has.

None of them is in any text: not in errors, nor in notes about partial files.
"""

import netrc
from collections.abc import Generator, Mapping
from pathlib import Path

import httpx

from orchestrator.errors import OrchestratorError


class NetrcError(OrchestratorError):
    """The netrc file cannot be read. The text has its path: it is for operators alone."""


def read_netrc(environment: Mapping[str, str]) -> netrc.netrc | None:
    """The file that NETRC names, else ~/.netrc; None where there is none. Raises `NetrcError`."""
    named = environment.get("NETRC")
    try:
        path = Path(named) if named else Path.home() / ".netrc"
    except RuntimeError:  # a user without a home
        return None
    try:
        return netrc.netrc(str(path))
    except FileNotFoundError:
        if named:
            raise NetrcError(f"The file {path} that NETRC names does not exist.") from None
        return None
    except netrc.NetrcParseError as error:  # its text has a word of the file, which may be the password
        raise NetrcError(f"The file {path} cannot be read: line {error.lineno} is not as netrc has it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NetrcError(f"The file {path} cannot be read: {getattr(error, 'strerror', 'it is no text')}.") from None


class HostCredentials(httpx.Auth):
    """Sends each host its own credentials, over https alone; a redirect to another host takes none along.

    `tokens`: by host, sent as `Authorization: Bearer`.
    """

    def __init__(self, tokens: Mapping[str, str], found: netrc.netrc | None) -> None:
        self._tokens = tokens
        self._netrc = found

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        url = request.url
        token = self._tokens.get(url.host)
        # Not what netrc has as `default`: that would go to whatever host an address leads to.
        entry = self._netrc.hosts.get(url.host) if self._netrc is not None else None
        if url.userinfo:  # a manifest has them over https alone
            yield from httpx.BasicAuth(url.username, url.password).auth_flow(request)
        elif url.scheme == "https" and token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
            yield request
        elif url.scheme == "https" and entry is not None:
            yield from httpx.BasicAuth(entry[0], entry[2] or "").auth_flow(request)
        else:
            yield request
