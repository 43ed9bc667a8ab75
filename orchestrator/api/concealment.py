"""Concealment: what a caller is shown says nothing of plugins that it does not see, by whatever sentence."""

import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Any, Final

from msgspec.structs import replace

from orchestrator.access.principal import Principal
from orchestrator.api.context import ApiContext
from orchestrator.registry import PluginRecord, PluginRegistry
from orchestrator.sandbox.call import RunResult

# Sentences of the orchestrator name other plugins: who holds a GPU, for whom one was parked, whose memory ran out.
_INSTEAD: Final = "another plugin"
_ITS_OWN: Final = frozenset(
    {
        "name",
        "plugin",
        "description",
        "version",
        "log_tail",
        "build_output",
        "traceback",
        "stacks",
        "limits",
        "container",
    }
)
"""Fields that say what the plugin itself says, or is."""


class Concealment:
    """For one caller. `names`: those of all plugins that there are at this moment."""

    def __init__(self, principal: Principal, names: Callable[[], Iterable[str]]) -> None:
        self.principal = principal
        self._plugins = names

    @property
    def _hidden(self) -> re.Pattern[str] | None:
        principal = self.principal
        if principal.sees_every_plugin:
            return None
        return _names(tuple(name for name in self._plugins() if not principal.sees(name)))

    def text(self, text: str) -> str:
        """The sentence, without names of other plugins."""
        hidden = self._hidden
        return text if hidden is None else hidden.sub(_INSTEAD, text)

    def value(self, value: Any) -> Any:
        """The same for all sentences in a value made of JSON's types."""
        hidden = self._hidden
        return value if hidden is None else _concealed(value, hidden)

    def json(self, text: bytes) -> bytes:
        """The same for all sentences in a JSON text."""
        if self._hidden is None:
            return text
        return json.dumps(self.value(json.loads(text)), ensure_ascii=False, separators=(",", ":")).encode()

    async def lines(self, log: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """A followed log: in it only what begins with `--- ` is the orchestrator's."""
        async with aclosing(log):
            async for chunk in log:
                yield self.text(chunk) if chunk.startswith("--- ") else chunk

    def result(self, result: RunResult) -> RunResult:
        """The same for what the orchestrator says of a run."""
        if result.error is None or result.from_plugin:
            return result
        error = self.text(result.error)
        return result if error == result.error else replace(result, error=error)


def concealment(principal: Principal, context: ApiContext) -> Concealment:
    return Concealment(principal, lambda: [record.name for record in context.registry.list()])


def records_seen(principal: Principal, registry: PluginRegistry) -> list[PluginRecord]:
    """The plugins that the caller sees."""
    found = registry.list()
    return found if principal.sees_every_plugin else [each for each in found if principal.sees(each.name)]


@lru_cache(maxsize=64)
def _names(hidden: tuple[str, ...]) -> re.Pattern[str] | None:
    if not hidden:
        return None
    # The longest first: a name may be the start of another one.
    names = "|".join(map(re.escape, sorted(hidden, key=len, reverse=True)))
    return re.compile(rf"(?:\b(?:the )?plugin )?(?<![\w-])(?:{names})(?![\w-])")


def _concealed(value: Any, hidden: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return hidden.sub(_INSTEAD, value)
    if isinstance(value, Mapping):
        return {key: each if key in _ITS_OWN else _concealed(each, hidden) for key, each in value.items()}
    if isinstance(value, Iterable):
        return [_concealed(each, hidden) for each in value]
    return value


def gpus_seen(report: Mapping[str, Any], shown: Concealment) -> Mapping[str, Any]:
    """What GET /v1/gpus answers, of the devices that the caller's plugins hold."""
    principal = shown.principal
    if principal.sees_every_plugin:
        return report
    devices = []
    for device in report["devices"]:
        holders = [holder for holder in device["holders"] if principal.sees(holder["plugin"])]
        if holders:
            used = {plugin: each for plugin, each in device["used_by_plugins_bytes"].items() if principal.sees(plugin)}
            devices.append({**device, "holders": holders, "used_by_plugins_bytes": used})
    held: Mapping[str, Any] = shown.value({**report, "devices": devices, "quarantines": []})
    return held
