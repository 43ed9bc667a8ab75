"""What the environment says about a build's access to the network and to packages. May have credentials."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from orchestrator.settings import Settings

PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PIP_VARIABLES: Final = {
    "PIP_INDEX_URL": "index-url",
    "PIP_EXTRA_INDEX_URL": "extra-index-url",
    "PIP_TRUSTED_HOST": "trusted-host",
}
"""Variable → its name in pip's configuration."""
BUILD_VARIABLES: Final = (*PROXY_VARIABLES, *PIP_VARIABLES)
"""Environment variables that builds heed."""
PIP_SETTINGS: Final = "FTP_PROXY"
"""The build argument that carries pip's configuration. Docker leaves its predefined arguments, and those alone, out of
an image's history and of the cache's keys, in the classic builder and in BuildKit.
"""

_CA_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_SYSTEM_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
_MASK: Final = "***"
_MIN_SECRET: Final = 4  # characters; a shorter text stands in much that is no secret, and is masked in URLs alone
_USER: Final = re.compile(r"(?P<start>://|^|(?<=\s))(?P<user>[^/\s:@]*)(?P<password>:[^/\s]*)?@")
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/\s@]*(:[^/\s]*)?@")
_NO_PASSWORDS: Final = ("", ":", ":x-oauth-basic", ":x-token-auth")
"""Passwords of those whose name is the secret, by the conventions of indexes and forges."""


def ca_bundle(settings: Settings, environment: Mapping[str, str]) -> Path | None:
    """The CA certificates that this host trusts: builds and pulls of models trust what the host trusts."""
    if settings.ca_bundle is not None:
        return settings.ca_bundle
    named = (environment.get(name) for name in _CA_VARIABLES)
    return next((Path(path) for path in (*named, _SYSTEM_BUNDLE) if path and Path(path).is_file()), None)


def build_arguments(settings: Mapping[str, str]) -> dict[str, str]:
    """The build arguments for these variables of `BUILD_VARIABLES`; none is found in an image afterwards."""
    arguments = _proxies(settings)
    if configuration := _pip_configuration(settings):
        arguments[PIP_SETTINGS] = configuration
    return arguments


def install_files(settings: Mapping[str, str]) -> dict[str, str]:
    """The same as files: `pip.conf`, and `proxies`, a shell script that sets variables."""
    proxies = "".join(f"{name}={shlex.quote(value)}\n" for name, value in _proxies(settings).items())
    return {"pip.conf": _pip_configuration(settings), "proxies": proxies}


def _proxies(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: settings[name] for name in PROXY_VARIABLES if settings.get(name)}


def _pip_configuration(settings: Mapping[str, str]) -> str:
    # A value has no line feeds of its own: pip's lists are separated by any white space.
    options = [
        f"{option} = {' '.join(settings[name].split())}" for name, option in PIP_VARIABLES.items() if settings.get(name)
    ]
    return "\n".join(["[global]", *options, ""]) if options else ""


def masked(text: str) -> str:
    """`text`, a URL or several, with its passwords masked; with its user masked where that is the secret."""
    return _USER.sub(_mask, text)


class Credentials:
    """The credentials in a build's settings, which are masked in whatever a build says."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        found = {part for value in settings.values() for match in _USER.finditer(value) for part in _secrets(match)}
        self._secrets = sorted((secret for secret in found if len(secret) >= _MIN_SECRET), key=len, reverse=True)

    def mask(self, text: str) -> str:
        """`text` without them, and without those of any URL in it."""
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return _USER_IN_URL.sub(f"{_MASK}@", text)


def _mask(found: re.Match[str]) -> str:
    user = "" if _is_secret(found) else f"{found['user']}:"
    return f"{found['start']}{user}{_MASK}@"


def _is_secret(found: re.Match[str]) -> bool:
    """Whether the user is the secret."""
    return (found["password"] or "") in _NO_PASSWORDS


def _secrets(found: re.Match[str]) -> set[str]:
    secret = found["user"] if _is_secret(found) else found["password"].removeprefix(":")
    return {secret, unquote(secret)}
