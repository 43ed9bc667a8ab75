"""Faults on demand, for the time of a block: see README.md."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import durationpy
import httpx

from orchestrator.client import ApiError, Client, PluginDetail, QueueFull, RunHandle
from orchestrator.simulation.faults import HOLD, HOLD_ARGUMENT, SLOW, Fault, FaultRefusedError, Place
from orchestrator.simulation.folders import HOLDER

__all__ = ["Calls", "FaultRefusedError", "Item", "Orchestrator", "calls", "item"]

_SECONDS: Final = 120.0
"""For a plugin to come to what it was made to come to, or back."""
_POLL_SECONDS: Final = 0.05
_ENDED: Final = frozenset({"FAILED", "UNAVAILABLE"})


@dataclass(frozen=True)
class Calls:
    """So many calls of a plugin's instance."""

    count: int


@dataclass(frozen=True)
class Item:
    """So many items of a stream; progress is none."""

    count: int


def calls(count: int) -> Calls:
    """For `after=`: so many calls are not affected."""
    return Calls(count)


def item(count: int) -> Item:
    """For `at=`: so many items of the stream are not affected."""
    return Item(count)


def seconds_of(duration: str) -> float:
    """`2s`, `500ms`, `1m30s`. Raises `ValueError`."""
    try:
        found = durationpy.from_str(duration)
    except durationpy.DurationError:
        raise ValueError(f"expected a duration such as 2s or 500ms, not {duration!r}") from None
    return float(found.total_seconds())


def fault_of(
    plugin: str,
    code: str,
    *,
    tool: str | None = None,
    after: Calls | None = None,
    at: Item | None = None,
    limit: str | None = None,
) -> Fault:
    """Raises `FaultRefusedError` for what no plugin can have, `ValueError` for no duration."""
    return Fault.of(
        {
            "plugin": plugin,
            "code": str(code),
            "tool": tool,
            "after": after.count if after else 0,
            "at": at.count if at else None,
            "limit": None if limit is None else seconds_of(limit),
        }
    )


class Orchestrator:
    """An orchestrator of the testing image, from a test's side."""

    @property
    def client(self) -> Client:
        """A client with the role operator."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The URL of its HTTP API."""
        raise NotImplementedError

    @property
    def api_key(self) -> str:
        """A key with the role operator."""
        raise NotImplementedError

    @property
    def headers(self) -> dict[str, str]:
        """Of a request by this key; none without a key."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def _own_container(self) -> Any:
        """The orchestrator's container, as the Docker SDK has it. Raises `RuntimeError` where there is none."""
        raise NotImplementedError

    @contextmanager
    def fault(
        self,
        plugin: str,
        code: str,
        *,
        tool: str | None = None,
        after: Calls | None = None,
        at: Item | None = None,
        limit: str | None = None,
        restore: bool = True,
    ) -> Iterator[None]:
        """Have a plugin come to this reason code in the block. `restore`: start it anew afterwards if it has ended.

        Raises `FaultRefusedError` for one that the plugin cannot have, `TimeoutError` where it does not come to it.
        """
        wanted = fault_of(plugin, code, tool=tool, after=after, at=at, limit=limit)
        try:
            if wanted.place is Place.COMMAND:
                self.client.park(plugin) if wanted.code == "PARKED" else self.client.stop(plugin)
                yield
            else:
                with self._armed(wanted):
                    self._bring_about(wanted)
                    yield
        finally:
            if restore:
                self._restore(plugin, anew=wanted.limit_name is not None)

    @contextmanager
    def slow(self, plugin: str, duration: str, *, tool: str | None = None) -> Iterator[None]:
        """Have each call of the plugin, or of this tool, take so much longer: `2s`, `500ms`."""
        fields = {"plugin": plugin, "code": SLOW, "tool": tool, "delay": seconds_of(duration)}
        with self._armed(Fault.of(fields)):
            yield

    @contextmanager
    def queue_full(self, plugin: str) -> Iterator[None]:
        """Have runs that do not end take every place of the plugin and of its queue: those of this key get 429."""
        tool = next((tool["name"] for tool in self.client.tools(plugin) if not tool.get("batch")), None)
        if tool is None:
            raise FaultRefusedError(f"All tools of {plugin} are batched: a call of one takes no place of its own.")
        held: list[RunHandle] = []
        with self._armed(Fault(plugin, HOLD)), Client(self.address, self.api_key, retries=0) as client:
            try:
                with suppress(QueueFull):
                    while True:
                        held.append(client.run_async(plugin, tool, **{HOLD_ARGUMENT: True}))
                _until(lambda: client.health(plugin)["in_flight"] > 0, f"no run of {plugin} executes")
                yield
            finally:
                for run in reversed(held):  # those that wait first: none of them shall start
                    with suppress(ApiError):
                        run.cancel()
        _until(lambda: not self.client.health(plugin)["in_flight"], f"the runs of {plugin} do not end")

    @contextmanager
    def host_silent(self) -> Iterator[None]:
        """Have the orchestrator accept connections and answer nothing, as a host that hangs."""
        container = self._own_container()
        container.pause()
        try:
            yield
        finally:
            container.unpause()

    def restart_of_orchestrator(self) -> None:
        """Kill the orchestrator by SIGKILL and start another one, which adopts the plugins' containers; returns once it
        is ready. Its address stays.
        """
        before = self._control("GET", "")["process"]
        self._own_container().kill("SIGUSR1")
        _until(lambda: self._process() not in (None, before), "the orchestrator does not come back")
        _until(lambda: httpx.get(f"{self.address}/readyz", trust_env=False).status_code == 200, "it is not ready")

    def log(self, *, since: int | None = None) -> str:
        """The orchestrator's own log, from this second since 1970 on. Raises `RuntimeError` without a container."""
        found: bytes = self._own_container().logs(since=since)
        return found.decode(errors="replace")

    # Internals

    def _bring_about(self, wanted: Fault) -> None:
        """Stop and start what has to be, and wait for what comes without a call."""
        plugin = wanted.plugin
        if wanted.restarts:
            self.client.stop(plugin)
        if wanted.place is Place.HOLDER:
            _until(lambda: _is_complete(self.client.start(HOLDER)), f"{HOLDER} does not get the GPUs")
        if wanted.restarts:
            self.client.start(plugin, wait=_SECONDS)
        if wanted.place is not Place.CALL:
            _until(
                lambda: self.client.health(plugin)["reason_code"] == wanted.code,
                f"{plugin} does not become {wanted.code}",
            )

    @contextmanager
    def _armed(self, wanted: Fault) -> Iterator[None]:
        number = self._control("POST", "/faults", wanted.report())["id"]
        try:
            yield
        finally:
            if wanted.place is Place.HOLDER:
                self.client.stop(HOLDER)
            self._control("DELETE", f"/faults/{number}")

    def _restore(self, plugin: str, *, anew: bool = False) -> None:
        """Start the plugin if it has ended; `anew`: in any case."""
        _until(
            lambda: self.client.health(plugin)["reason_code"] != "KILL_FAILED",
            f"the container of {plugin} is not removed",
        )
        if anew:
            self.client.restart(plugin, wait=_SECONDS)
        elif self.client.health(plugin)["state"] in _ENDED:
            self.client.start(plugin, wait=_SECONDS)
        self._require_well(self.client.health(plugin))

    def _require_well(self, plugin: PluginDetail) -> None:
        if plugin["state"] in _ENDED:
            raise RuntimeError(f"{plugin['name']} did not start again after a fault: {plugin['reason']}")

    def _process(self) -> int | None:
        with suppress(httpx.TransportError, RuntimeError):
            return int(self._control("GET", "")["process"])
        return None

    def _control(self, method: str, path: str, fields: Mapping[str, Any] | None = None) -> Any:
        answer = httpx.request(
            method,
            f"{self.address}/testing{path}",
            json=fields,
            headers=self.headers,
            timeout=30,
            trust_env=False,
        )
        content = answer.json()
        if answer.is_success:
            return content
        if content.get("error_type") == "FaultRefused":
            raise FaultRefusedError(content["error"])
        if content.get("error_type") == "UnknownRoute":
            raise RuntimeError(
                "This orchestrator makes no faults: it is not of the testing image. Leave out `image` and `simulation`."
            )
        raise RuntimeError(f"{method} /testing{path} was answered with {answer.status_code}: {content.get('error')}")


def _is_complete(plugin: PluginDetail) -> bool:
    """Whether all of its instances serve."""
    return plugin["replicas"]["ready"] == plugin["replicas"]["wanted"]


def _until(holds: Callable[[], bool], problem: str) -> None:
    """Raises `TimeoutError` with the problem."""
    end = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{problem}, for {_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
