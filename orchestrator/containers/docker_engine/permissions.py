"""What the orchestrator needs of the engine's API, by the names that proxies of the engine's socket give it. Pure."""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

_VERSION: Final = re.compile(r"^/v\d+\.\d+(?=/)")
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED})
_OUTAGES: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
_NOBODY: Final = "plugin-orchestrator-trial-of-permissions"  # nothing has this name


@dataclass(frozen=True, slots=True)
class Trial:
    """A request that changes nothing whatever the answer, and what a proxy must allow for it."""

    method: str
    path: str
    permission: str


TRIALS: Final = (
    Trial("GET", "/_ping", "PING"),
    Trial("GET", "/version", "VERSION"),
    Trial("GET", "/info", "INFO"),
    Trial("GET", f"/images/{_NOBODY}/json", "IMAGES"),
    Trial("GET", f"/containers/{_NOBODY}/json", "CONTAINERS"),
    Trial("GET", f"/volumes/{_NOBODY}", "VOLUMES"),
    Trial("GET", f"/networks/{_NOBODY}", "NETWORKS"),
    Trial("GET", "/events?since=0&until=1", "EVENTS"),
    Trial("POST", f"/containers/{_NOBODY}/start", "POST"),
    Trial("DELETE", f"/containers/{_NOBODY}", "POST"),
    Trial("PUT", f"/containers/{_NOBODY}/archive?path=/", "POST"),
    Trial("POST", f"/commit?container={_NOBODY}", "COMMIT"),
    # Neither a context nor the name of one: it is refused before anything is built.
    Trial("POST", f"/build?dockerfile={_NOBODY}", "BUILD"),
)
NEEDED: Final = tuple(dict.fromkeys(trial.permission for trial in TRIALS))
_BY_FOLDER: Final = {name.lower(): name for name in NEEDED} | {"_ping": "PING", "system": "SYSTEM"}
"""By the first part of a path. SYSTEM is for the sizes of caches alone: without it they are unknown."""


def refuses(status: int) -> bool:
    """Whether an answer to a trial means that the request is not allowed."""
    return status in _REFUSALS


def needed_for(method: str, path: str) -> tuple[str, ...]:
    """The permissions of one request, such as (CONTAINERS, POST)."""
    folder = _VERSION.sub("", path).lstrip("/").partition("/")[0].partition("?")[0]
    permission = _BY_FOLDER.get(folder, folder.upper())
    return (permission,) if method in {"GET", "HEAD"} else (permission, "POST")


def proxys_refusal(status: int, method: str, path: str, content_type: str) -> str | None:
    """The sentence on a request that something before the engine has refused; None where the engine itself did."""
    # The engine answers errors in JSON; proxies answer with a page of HTML or a word.
    if not refuses(status) or "json" in content_type:
        return None
    bare = _VERSION.sub("", path).partition("?")[0]
    return (
        f"{method} {bare} was refused with {status}, not by the engine but by a proxy of its socket. Allow "
        f"{' and '.join(needed_for(method, path))} there; in all it needs {', '.join(NEEDED)}. `orchestrator doctor` "
        "tries them all"
    )


def proxys_outage(status: int, content_type: str) -> str | None:
    """The sentence on an engine that a proxy of its socket did not reach; None for any other answer."""
    if status not in _OUTAGES or "json" in content_type:
        return None
    return f"a proxy of the engine's socket answers {status}: it does not reach the engine"
