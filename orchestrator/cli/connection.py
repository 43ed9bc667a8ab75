"""The connection to the HTTP API: address, API key, shell completion; errors as a sentence and an exit code."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import httpx
import typer
from rich.text import Text

from orchestrator.cli.console import (
    EXIT_BUSY,
    EXIT_DENIED,
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    EXIT_UNREACHABLE,
    complain,
    errors,
    misused,
)
from orchestrator.client import (
    AccessDenied,
    ApiError,
    CertificateRefused,
    Client,
    InstanceEnded,
    PluginUnavailable,
    TooManyRequests,
    UnexpectedAnswer,
    Unreachable,
)

_COMMANDS = {
    "GET /v1/plugins": "orchestrator plugins",
    "GET /v1/runs": "orchestrator runs",
    "GET /v1/gpus": "orchestrator gpus",
}
logging.getLogger("orchestrator.client").setLevel(
    logging.ERROR
)  # an operator need not see that a stream was reconnected


def address() -> str:
    """The orchestrator's URL: ORCHESTRATOR_URL, else the host and port that `serve` would use."""
    host = os.environ.get("ORCHESTRATOR_HOST", "127.0.0.1")
    port = os.environ.get("ORCHESTRATOR_PORT", "8000")
    scheme = "https" if os.environ.get("ORCHESTRATOR_TLS_CERT") else "http"
    # 0.0.0.0 and :: are addresses to listen on, not to connect to.
    return os.environ.get("ORCHESTRATOR_URL", f"{scheme}://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}")


def credentials() -> dict[str, str]:
    """The Authorization header for ORCHESTRATOR_API_KEY; empty without a key."""
    key = os.environ.get("ORCHESTRATOR_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def connected(*, retry_idempotent: bool = False) -> Iterator[Client]:
    """A client of the API. Its errors end the program with a sentence and an exit code."""
    # No retries: an operator is waiting.
    with explained(), Client(checked_address(), retries=0, retry_idempotent=retry_idempotent) as client:
        yield client


def checked_address() -> str:
    """`address()`; ends the program with a sentence where that is none."""
    url = address()
    try:
        parsed = httpx.URL(url)
        fits = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        fits = False
    if not fits:
        by = "ORCHESTRATOR_URL" if "ORCHESTRATOR_URL" in os.environ else "ORCHESTRATOR_HOST, ORCHESTRATOR_PORT"
        misused(by, f"{url!r} is not an address such as http://127.0.0.1:8000")
    return url


@contextmanager
def explained() -> Iterator[None]:
    """Turn an `ApiError` into a sentence on stderr and its exit code."""
    try:
        yield
    except ApiError as error:
        report(error)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def exit_code(error: ApiError) -> int:
    match error:
        case Unreachable():
            return EXIT_UNREACHABLE
        case InstanceEnded():  # the run had begun: it gave no result
            return EXIT_FAILED
        case PluginUnavailable():
            return EXIT_UNAVAILABLE
        case TooManyRequests():
            return EXIT_BUSY
        case AccessDenied():
            return EXIT_DENIED
        case _:
            return EXIT_FAILED


def report(error: ApiError) -> None:
    """Print what went wrong and, where the error does not say it, what to do."""
    match error:
        case CertificateRefused():
            errors.print(Text(f"{error}.", style="red"), soft_wrap=True)
        case Unreachable() if error.__cause__ is not None:
            hint = f"Start one with `orchestrator serve` (or `make up`), or set ORCHESTRATOR_URL (now {address()})."
            errors.print(Text.assemble((str(error), "red"), f". {hint}"), soft_wrap=True)
        case Unreachable() | UnexpectedAnswer():
            errors.print(Text.assemble((str(error), "red"), f" ({address()})"), soft_wrap=True)
        case _:
            complain(error.code, _in_commands(str(error)))
            if error.error_type == "UnknownPlugin" and "no folder" not in str(error):
                hint = f"If its folder is new, `orchestrator start {error.plugin}` registers it."
                errors.print(Text(hint), soft_wrap=True)


def _in_commands(sentence: str) -> str:
    """The orchestrator's sentence with commands in place of routes."""
    for route, command in _COMMANDS.items():
        sentence = sentence.replace(f"{route} lists", f"`{command}` lists")
    return sentence


def complete_plugin(incomplete: str) -> list[str]:
    """Plugin names for shell completion; none if no orchestrator answers."""
    try:
        with Client(address(), retries=0) as api:
            return [plugin["name"] for plugin in api.plugins() if plugin["name"].startswith(incomplete)]
    except ApiError:
        return []


def complete_tool(ctx: typer.Context, incomplete: str) -> list[str]:
    """Tool names for shell completion, of the plugin named before."""
    try:
        with Client(address(), retries=0) as api:
            return [tool["name"] for tool in api.tools(ctx.params["plugin"]) if tool["name"].startswith(incomplete)]
    except (ApiError, KeyError):
        return []


Name = Annotated[str, typer.Argument(help="The plugin's name.", autocompletion=complete_plugin)]
