"""The command line's way to the HTTP API; turns what goes wrong into one sentence and an exit code."""

import os
from typing import Any, Final, NoReturn

import httpx
import typer
from rich.console import Console
from rich.text import Text

EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_FAILED: Final = 1

errors = Console(stderr=True, highlight=False, emoji=False)


def address() -> str:
    """Where the orchestrator is: ORCHESTRATOR_URL, else the host and port that `serve` would take."""
    host = os.environ.get("ORCHESTRATOR_HOST", "127.0.0.1")
    port = os.environ.get("ORCHESTRATOR_PORT", "8000")
    return os.environ.get("ORCHESTRATOR_URL", f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}")


def credentials() -> dict[str, str]:
    """The headers that say who calls: the key in ORCHESTRATOR_API_KEY, where there is one."""
    key = os.environ.get("ORCHESTRATOR_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def request(method: str, path: str, **options: Any) -> httpx.Response:
    """One request; leaves the program with a sentence where nobody answers."""
    timeout = httpx.Timeout(10, read=options.pop("read_timeout", 30))
    try:
        with httpx.Client(base_url=address(), headers=credentials(), timeout=timeout, trust_env=False) as client:
            return client.request(method, path, **options)
    except httpx.HTTPError as error:
        unreachable(error)


def get(path: str, **options: Any) -> Any:
    """The JSON of a GET; leaves the program with the error's sentence where it is none."""
    return content(request("GET", path, **options))


def content(response: httpx.Response) -> Any:
    """The response's JSON; leaves the program where the status is an error."""
    body = _json(response)
    if response.is_error:
        fail((body.get("error") if isinstance(body, dict) else None) or f"status {response.status_code}")
    return body


def envelope(response: httpx.Response) -> dict[str, Any]:
    """The answer to a run, a result or an error; leaves the program where it is neither."""
    body = _json(response)
    if not isinstance(body, dict):
        fail(f"{address()} answered {response.status_code} and no envelope. Is that the orchestrator?")
    return body


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        fail(f"{address()} answered {response.status_code} and no JSON. Is that the orchestrator?")


def unreachable(error: httpx.HTTPError) -> NoReturn:
    complain(
        f"No orchestrator answers at {address()}",
        f"{error}. Start one with `orchestrator serve` (or `make up`), or set ORCHESTRATOR_URL.",
    )
    raise typer.Exit(EXIT_UNREACHABLE)


def fail(sentence: str) -> NoReturn:
    errors.print(Text(sentence, style="red"), soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


def complain(subject: str, sentence: str, style: str = "red") -> None:
    """`subject: sentence` on stderr. Both may be anybody's words: what looks like markup in them is text."""
    errors.print(Text.assemble((subject, style), f": {sentence}"), soft_wrap=True)


def stream_lines(path: str, params: dict[str, str]) -> None:
    """Print a text stream line by line until it ends or the user interrupts."""
    try:
        with (
            httpx.Client(
                base_url=address(), headers=credentials(), timeout=httpx.Timeout(10, read=None), trust_env=False
            ) as http,
            http.stream("GET", path, params=params) as response,
        ):
            if response.is_error:
                response.read()
                content(response)
            for line in response.iter_lines():
                print(line, flush=True)  # noqa: T201 - raw: log lines are not markup
    except httpx.HTTPError as error:
        unreachable(error)
    except KeyboardInterrupt:
        raise typer.Exit from None
