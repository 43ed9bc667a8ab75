"""The rules of the start, the control socket and the stop."""

import asyncio
import json
import stat
import time
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.conformance.harness import BrokenRuleError, Rule, Subject, demand, object_of

_NUMBER = (int, float)
_NULL = (int, float, type(None))
_STATUS: Final[Mapping[str, tuple[type, ...]]] = {
    "protocol": (int,),
    "phase": (str,),
    "reason_code": (str, type(None)),
    "reason": (str, type(None)),
    "traceback": (str, type(None)),
    "checks": (list,),
    "tools": (list,),
    "worker": (dict,),
    "memory": (dict,),
    "cpu_seconds": _NULL,
    "uptime_seconds": _NULL,
}
_TOOL: Final[Mapping[str, tuple[type, ...]]] = {
    "name": (str,),
    "description": (str,),
    "input_schema": (dict,),
    "streaming": (bool,),
    "uploads": (dict,),
}
_BATCH: Final[Mapping[str, tuple[type, ...]]] = {"max_size": (int,), "max_wait_ms": _NUMBER}
_PHASES: Final = ("starting", "ready", "failed", "exited")
_POLL_SECONDS: Final = 0.05
_MAX_DIAGNOSIS: Final = 1.2  # seconds: the protocol's one second, and the transfer
_GRACE_SECONDS: Final = 5.0


async def listens(subject: Subject) -> None:
    if not await subject.until_it_listens():
        container = await subject.engine.inspect(subject.container_id)
        log = (await subject.engine.logs(subject.container_id, tail=5)).strip()
        raise BrokenRuleError(
            f"control.sock is missing; the container is {container.state} ({container.exit_code}). {log}"
        )


async def is_ready(subject: Subject) -> None:
    end = time.monotonic() + subject.startup_timeout
    while (status := object_of(await subject.control.get("/status"), 200)).get("phase") == "starting":
        demand(time.monotonic() < end, f"still `starting` after {subject.startup_timeout:.0f} s")
        await asyncio.sleep(_POLL_SECONDS)
    reason = f"{status.get('reason_code')}: {status.get('reason')}"
    demand(status.get("phase") == "ready", f"phase is {status.get('phase')!r} instead of 'ready' ({reason})")
    subject.status = status


async def notifies(subject: Subject) -> None:
    try:
        async with asyncio.timeout(1):
            await subject.notified.wait()
    except TimeoutError:
        raise BrokenRuleError("no READY=1 came on NOTIFY_SOCKET") from None


async def sockets_are_open(subject: Subject) -> None:
    for path in (subject.endpoint.control, subject.endpoint.tools):
        try:
            found = path.lstat().st_mode
        except OSError:
            raise BrokenRuleError(f"{path.name} is missing") from None
        demand(stat.S_ISSOCK(found), f"{path.name} is not a socket")
        demand(stat.S_IMODE(found) & 0o666 == 0o666, f"{path.name} has mode {stat.S_IMODE(found):04o}, not 0666")


async def status_is_complete(subject: Subject) -> None:
    status = object_of(await subject.control.get("/status"), 200)
    _fits("the status", status, _STATUS)
    demand(status["protocol"] == 1, f"protocol is {status['protocol']}, not 1")
    demand(status["phase"] in _PHASES, f"phase {status['phase']!r} is none of {', '.join(_PHASES)}")
    for check in status["checks"]:
        _fits("a check", check, {"name": (str,), "ok": (bool,), "detail": (str,)})
    _fits("worker", status["worker"], {"pid": _NULL, "exit_code": _NULL, "signal": _NULL})
    memory = {"oom_kills": _NUMBER, "usage_bytes": _NULL, "peak_bytes": _NULL, "limit_bytes": _NULL}
    _fits("memory", status["memory"], memory)


async def tools_are_described(subject: Subject) -> None:
    tools = subject.status.get("tools")
    demand(isinstance(tools, list) and tools, "no tool is listed")
    for tool in tools or ():
        _fits("a tool", tool, _TOOL)
        schema = tool["input_schema"]
        where = f"input_schema of {tool['name']}"
        demand(schema.get("type") == "object", f"{where}: type is {schema.get('type')!r}, not 'object'")
        demand(schema.get("additionalProperties") is False, f"{where}: additionalProperties is not false")
        demand(isinstance(schema.get("properties", {}), dict), f"{where}: properties is no object")
        demand(isinstance(tool.get("idempotent", False), bool), f"idempotent of {tool['name']} is not a bool")
        if tool.get("batch") is not None:
            _fits(f"batch of {tool['name']}", tool["batch"], _BATCH)
            demand(not tool["streaming"], f"{tool['name']} is batched, and cannot be streaming")
        for parameter, kind in tool["uploads"].items():
            demand(kind in {"bytes", "path"}, f"uploads of {tool['name']}: {parameter} is {kind!r}, not bytes or path")


async def watch_streams(subject: Subject) -> None:
    async with subject.control.stream("GET", "/watch") as response:
        demand(response.status_code == 200, f"status {response.status_code} instead of 200")
        kind = response.headers.get("content-type", "")
        demand(kind.startswith("application/x-ndjson"), f"Content-Type is {kind!r} instead of application/x-ndjson")
        lines = response.aiter_lines()
        try:
            first = json.loads(await anext(lines))
        except (ValueError, StopAsyncIteration):
            raise BrokenRuleError("the first line is no JSON") from None
        demand(isinstance(first, dict) and "phase" in first, "the first line is no status object")
        try:
            # Silence is right: nothing changes, and the stream stays open.
            async with asyncio.timeout(0.5):
                await anext(lines)
        except TimeoutError:
            return
        except StopAsyncIteration:
            raise BrokenRuleError("the stream ended while the container runs") from None


async def diagnoses(subject: Subject) -> None:
    started = time.monotonic()
    content = object_of(await subject.control.post("/diagnose"), 200)
    took = time.monotonic() - started
    demand(isinstance(content.get("stacks"), str), "`stacks` is no string")
    demand(took <= _MAX_DIAGNOSIS, f"it took {took:.1f} s")


async def survives_garbage(subject: Subject) -> None:
    for path in (subject.endpoint.control, subject.endpoint.tools):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")  # starts like a TLS handshake
        await writer.drain()
        writer.write_eof()
        await reader.read(65536)
        writer.close()
    object_of(await subject.control.get("/status"), 200)
    demand(await subject.running(), "the container ended")


async def exits_on_sigterm(subject: Subject) -> None:
    stopping = asyncio.create_task(subject.engine.stop(subject.container_id, grace=_GRACE_SECONDS))
    started = time.monotonic()
    await stopping
    took = time.monotonic() - started
    container = await subject.engine.inspect(subject.container_id)
    # 137: ended by SIGKILL.
    demand(container.exit_code != 137, f"it did not exit on SIGTERM and was killed after {took:.0f} s")


def _fits(what: str, content: object, fields: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(content, Mapping):
        raise BrokenRuleError(f"{what} is not an object")
    for name, kinds in fields.items():
        demand(name in content, f"{what} lacks `{name}`")
        value: Any = content[name]
        # bool is a subclass of int, but true is no number in JSON.
        good = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        demand(good, f"{what}: `{name}` is {json.dumps(value)[:60]}")


RULES: Final = (
    Rule("control-socket", "The container creates control.sock in PLUGIN_RUN_DIR.", listens, starts=True),
    Rule("ready", "GET /status reaches the phase `ready`.", is_ready, starts=True),
    Rule("notify", "READY=1 is sent to NOTIFY_SOCKET once control.sock accepts connections.", notifies),
    Rule("socket-modes", "control.sock and tools.sock exist with mode 0666.", sockets_are_open),
    Rule("status", "The status object has every field with its type.", status_is_complete),
    Rule("tools", "Each tool has name, description, input schema, streaming and uploads.", tools_are_described),
    Rule("watch", "GET /watch streams the status as NDJSON at once and while the container runs.", watch_streams),
    Rule("diagnose", "POST /diagnose answers with stacks within a second.", diagnoses),
    Rule("nonsense", "Data that is not HTTP ends its own connection and nothing else.", survives_garbage),
)
SIGTERM: Final = Rule("sigterm", "It exits on SIGTERM within the grace period.", exits_on_sigterm)
