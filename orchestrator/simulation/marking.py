"""Marks what is simulated in the answers of the API."""

import json
import re
from collections.abc import Callable
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.simulation.simulation import Simulation

_HEADER: Final = "X-Simulated"
_PLUGINS: Final = re.compile(r"/v1/plugins(?:/[^/]+/(?:health|restart|start|stop|park|scale))?")


class Marked:
    """ASGI middleware around the whole application. The orchestrator's own models have no field for this: only a
    simulated one answers it.
    """

    def __init__(self, app: ASGIApp, simulation: Simulation) -> None:
        self._app = app
        self._simulation = simulation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _marking(self._marks(scope["path"]), send))

    def _marks(self, path: str) -> Callable[[Any], Any] | None:
        """What is done with the JSON of this route; None where it stays as it is."""
        if path == "/readyz":
            return lambda content: {**content, "simulated": True}
        if path == "/v1/gpus":
            return lambda content: {**content, **self._gpus(content), "simulated": self._simulation.gpus is not None}
        return self._plugins if _PLUGINS.fullmatch(path) else None

    def _plugins(self, content: Any) -> Any:
        if isinstance(content, list):
            return [self._plugin(each) for each in content]
        return self._plugin(content)

    def _plugin(self, plugin: Any) -> Any:
        if not isinstance(plugin, dict) or "generation" not in plugin:  # an error's envelope
            return plugin
        has_gpus = bool(plugin["gpus"])
        simulated = self._simulation.is_simulated(plugin["name"], plugin["generation"], has_gpus=has_gpus)
        return {**plugin, "gpus": [self._gpu(gpu) for gpu in plugin["gpus"]], "simulated": simulated}

    def _gpus(self, content: Any) -> Any:
        return {"devices": [self._gpu(gpu) for gpu in content.get("devices", ())]}

    def _gpu(self, gpu: dict[str, Any]) -> dict[str, Any]:
        return {**gpu, "simulated": self._simulation.gpus is not None}


def _marking(marks: Callable[[Any], Any] | None, send: Send) -> Send:
    start: Message | None = None
    body = b""

    async def send_marked(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            headers[_HEADER] = "true"
            message = {**message, "headers": headers.raw}
            if marks is not None and headers.get("content-type", "").startswith("application/json"):
                start = message
                return
        if start is None:
            await send(message)
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            text = json.dumps(marks(json.loads(body))).encode() if body and marks else body  # none for HEAD
            headers = MutableHeaders(raw=list(start["headers"]))
            if body:
                headers["content-length"] = str(len(text))
            await send({**start, "headers": headers.raw})
            await send({**message, "body": text})

    return send_marked
