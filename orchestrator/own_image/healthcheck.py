"""The health check of the orchestrator's own image: exit code 0 if it is healthy. Few imports: it runs often."""

import http.client
import os
import sys
from typing import Final

# An address that means all interfaces is none to connect to.
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def answers(host: str, port: int) -> bool:
    """Whether a healthy orchestrator answers at this address."""
    connection = http.client.HTTPConnection(_LOOPBACK_OF.get(host, host), port, timeout=4)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    here = (os.environ.get("ORCHESTRATOR_HOST", "127.0.0.1"), int(os.environ.get("ORCHESTRATOR_PORT", "8000")))
    sys.exit(0 if answers(*here) else 1)
