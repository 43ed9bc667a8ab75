"""The load generator: `loadgen.c`, compiled for this run; it loads servers from a process of its own."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("loadgen.c")


@dataclass(frozen=True)
class Load:
    """The result of a load. Times in microseconds, except `seconds`."""

    requests: int
    bad: int
    """Answers other than 2xx; `first_bad` is the first one's status."""
    first_bad: int
    broken: int
    """Connections that failed."""
    seconds: float
    bytes_in: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Request:
    """A request's target (tcp:ADDRESS:PORT or unix:PATH) and its bytes."""

    target: str
    content: bytes

    @classmethod
    def post(
        cls,
        target: str,
        path: str,
        body: bytes,
        content_type: str = "application/json",
        more_headers: Mapping[str, str] | None = None,
    ) -> "Request":
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **(more_headers or {})}
        if path.startswith("/tools/"):  # the runtime protocol requires it; the orchestrator gives its runs ids itself
            headers["X-Run-Id"] = "benchmark"
        return cls(target, _head("POST", path, headers) + body)

    @classmethod
    def get(cls, target: str, path: str) -> "Request":
        return cls(target, _head("GET", path, {}))


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class RunningLoad:
    """A load under way."""

    def __init__(self, process: subprocess.Popen[str], *, strict: bool) -> None:
        self._process = process
        self._strict = strict

    def result(self) -> Load:
        """Wait for its end. A strict load fails if an answer was bad."""
        out, err = self._process.communicate(timeout=600)
        assert self._process.returncode == 0, f"the load generator failed: {err}"
        load = Load(**json.loads(out))
        if self._strict:
            assert load.requests, "no answer came at all"
            assert not load.bad, f"{load.bad} of {load.requests} answers were bad, the first a {load.first_bad}"
            assert not load.broken, f"{load.broken} connections broke"
        return load


class LoadGenerator:
    """Runs the compiled program."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._files: dict[bytes, Path] = {}

    def begin(
        self,
        request: Request,
        *,
        connections: int = 1,
        seconds: float = 3600,
        requests: int = 0,
        interval: float = 0,
        strict: bool = True,
    ) -> RunningLoad:
        """Start a load that ends after `seconds` or `requests`. With an `interval` in seconds each connection has a
        request due that often, and a late one counts from when it was due.
        """
        if request.content not in self._files:
            path = self._folder / f"request-{len(self._files)}"
            path.write_bytes(request.content)
            self._files[request.content] = path
        numbers = (connections, seconds, requests, round(interval * 1e6))
        command = [str(self._program), request.target, str(self._files[request.content]), *map(str, numbers)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return RunningLoad(process, strict=strict)

    def run(
        self, request: Request, *, connections: int = 1, seconds: float = 3600, requests: int = 0, strict: bool = True
    ) -> Load:
        """Send the next request as soon as one is answered; wait for the end."""
        return self.begin(request, connections=connections, seconds=seconds, requests=requests, strict=strict).result()


@contextmanager
def load_generator() -> Iterator[LoadGenerator]:
    """Compile it in a temporary folder. Raises `CalledProcessError` if gcc fails."""
    with tempfile.TemporaryDirectory(prefix="loadgen-") as name:
        folder = Path(name)
        subprocess.run(["gcc", "-O2", "-o", str(folder / "loadgen"), str(_SOURCE)], check=True)
        yield LoadGenerator(folder / "loadgen", folder)
