"""`python healthcheck.py`: exits with 0 while the plugin is starting or ready, else with 1 and a line that says why."""

from __future__ import annotations

import json
import os
import socket
import sys

SECONDS = 2.0


def main() -> int:
    """The exit status."""
    path = (os.environ.get("PLUGIN_RUN_DIR") or "/run/plugin") + "/control.sock"
    try:
        status = json.loads(request_status(path))
        phase, reason = status["phase"], status["reason"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        return complain(f"{path} does not answer: {error}")
    if phase in {"starting", "ready"}:
        return 0
    return complain(f"the plugin is {phase}: {reason or status['worker']}")


def request_status(path: str) -> bytes:
    """The body of GET /status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        connection.connect(path)
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2]


def complain(line: str) -> int:
    """Print why, and return the exit status."""
    print(line)  # noqa: T201 - the engine stores what a health check prints
    return 1


if __name__ == "__main__":
    sys.exit(main())
