"""The health check of the orchestrator's own image: exit code 0 if it is healthy. Few imports: it runs often."""

import http.client
import os
import sys
from typing import Final

# An address that means all interfaces is none to connect to.
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def _connection(host: str, port: int, *, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=4)
    import ssl  # noqa: PLC0415  # takes longer to load than all the rest

    # Its certificate is for the name that others use, and what is asked for is no secret.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=4, context=context)


def answers(host: str, port: int, *, tls: bool = False) -> bool:
    """Whether a healthy orchestrator answers at this address."""
    connection = _connection(_LOOPBACK_OF.get(host, host), port, tls=tls)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    here = (os.environ.get("ORCHESTRATOR_HOST", "127.0.0.1"), int(os.environ.get("ORCHESTRATOR_PORT", "8000")))
    sys.exit(0 if answers(*here, tls=bool(os.environ.get("ORCHESTRATOR_TLS_CERT"))) else 1)
