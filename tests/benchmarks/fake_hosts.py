"""Many hosts that say of their plugins what real ones do, in one process: for measuring a front, and nothing else.

python -m benchmarks.fake_hosts PORT PLUGINS CHANGES      CHANGES: health frames a second and host

Each path `/<name>` of the port is a host of its own.
"""

import asyncio
import json
import random
import sys
from datetime import UTC, datetime
from typing import Any

_INSTANCE = {
    "generation": 1, "state": "RUNNING", "role": "serving", "version": "1.0.0", "reason_code": None, "reason": None,
    "uptime_seconds": 5000.0, "in_flight": 0, "gpus": [], "host": None,
    "container": {"id": "c" * 64, "image": "plugin-orchestrator/plugin", "image_id": "sha256:" + "d" * 64},
    "checks": [{"name": f"check {n}", "ok": True, "detail": "as it should be", "source": "host"} for n in range(6)],
}  # fmt: skip


def report(name: str, count: int) -> dict[str, Any]:
    return {
        **{key: _INSTANCE[key] for key in ("state", "version", "reason", "reason_code", "uptime_seconds", "container")},
        "name": name, "description": "A plugin that is measured.", "last_used": None, "success_count": count,
        "error_count": 0, "last_execution_time_ms": 1.5, "avg_execution_time_ms": 1.5, "in_flight": 0, "queued": 0,
        "generation": 1, "observed_at": datetime.now(UTC).isoformat(), "stale": False, "checks": _INSTANCE["checks"],
        "gpus": [], "limits": {"memory_bytes": 1 << 30, "timeout_seconds": 60.0}, "activity": None, "restart": None,
        "replicas": {"wanted": 1, "ready": 1, "in_manifest": 1}, "degraded": False, "degraded_reason": None,
        "parked_since": None, "start_estimate_seconds": 1.0, "host": None, "instances": [_INSTANCE], "candidate": None,
    }  # fmt: skip


class FakeHosts:
    """Answers `/readyz`, `/v1/plugins` and the stream of `/v1/events` below any name, whatever else a request says."""

    def __init__(self, plugins: int, changes: float) -> None:
        self._plugins = plugins
        self._changes = changes
        self._count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, host, path = head.split(b" ", 2)[1].decode().split("/", 2)
                names = [f"plugin-{host}-{number}" for number in range(self._plugins)]
                if path.startswith("v1/events"):
                    await self._stream(writer, names)
                elif path == "readyz":
                    self._answer(writer, {"status": "ready", "waiting_for": []})
                else:
                    self._answer(writer, [report(name, self._count) for name in names])
        except (asyncio.IncompleteReadError, OSError):
            writer.transport.abort()

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, value: Any) -> None:
        body = json.dumps(value, separators=(",", ":")).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    async def _stream(self, writer: asyncio.StreamWriter, names: list[str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        while True:
            await asyncio.sleep(random.expovariate(self._changes))
            self._count += 1
            data = json.dumps(report(random.choice(names), self._count), separators=(",", ":"))
            writer.write(f"event: health\ndata: {data}\n\n".encode())
            await writer.drain()


async def main(port: int, plugins: int, changes: float) -> None:
    server = await asyncio.start_server(FakeHosts(plugins, changes).serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
