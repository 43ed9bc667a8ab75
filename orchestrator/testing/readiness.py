"""PluginsReady: the wait strategy of an orchestrator's container."""

import time
from typing import Final

import httpx
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

PORT: Final = 8000
"""Of the orchestrator, in its container."""
_POLL_SECONDS: Final = 0.1
_START_SECONDS: Final = 60.0  # limit until the orchestrator itself answers
_MAX_LOG: Final = 4000  # characters of its log in an error


class OrchestratorNotReadyError(RuntimeError):
    """The orchestrator or one of its plugins did not start in time. The message holds the end of the log."""


class PluginsReady(WaitStrategy):
    """Until each plugin's first start has ended, in success or failure; `with_startup_timeout` bounds it. Raises
    `OrchestratorNotReadyError`.
    """

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        """Returns when it is ready."""
        started = time.monotonic()
        answer_text = "it does not answer"
        while True:
            waited = time.monotonic() - started
            try:
                address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(PORT)}"
                answer = httpx.get(f"{address}/readyz", timeout=5, trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    return
                answer_text, limit = answer.text, self._startup_timeout
            except (httpx.TransportError, TimeoutError, ConnectionError):  # its port is not published yet
                limit = min(_START_SECONDS, self._startup_timeout)
            container.reload()
            if container.status == "exited" or waited > limit:
                log = b"".join(container.get_logs()).decode(errors="replace")[-_MAX_LOG:]
                raise OrchestratorNotReadyError(f"not ready after {waited:.0f} s: {answer_text}\n{log}")
            time.sleep(_POLL_SECONDS)
