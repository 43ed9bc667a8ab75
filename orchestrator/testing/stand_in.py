"""StandIn: a plugin by its name alone."""

import json
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

_DEFAULT_TOOLS: Final[Mapping[str, Any]] = {"run": None}


@dataclass(frozen=True)
class StandIn:
    """A plugin in a container as any other, whose tools take any arguments and return what is said here.

    `tools`: tool → its result, as JSON has it. `gpu`: it requires a GPU. `manifest`: further fields of plugin.yaml,
    such as {"concurrency": 4}. Raises `ValueError` for a tool whose name is none in Python, `TypeError` for a result
    that is no JSON.
    """

    name: str
    tools: Mapping[str, Any] = field(default_factory=lambda: dict(_DEFAULT_TOOLS))
    gpu: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tool, result in self.tools.items():
            if not tool.isidentifier() or keyword.iskeyword(tool) or tool.startswith("_"):
                raise ValueError(f"{tool!r} cannot be the name of a tool: it is the name of a method")
            json.dumps(result)

    def files(self) -> dict[str, str]:
        """Of its folder, by name."""
        manifest = {
            "name": self.name,
            "version": "0.0.0",
            "description": "Stands in for a plugin in a test.",
            "entrypoint": "stand_in:StandIn",
            **({"requires_gpu": True} if self.gpu else {}),
            **self.manifest,
        }
        return {"plugin.yaml": yaml.safe_dump(manifest, sort_keys=False), "stand_in.py": self._module()}

    def _module(self) -> str:
        tools = "".join(
            f"\n    @tool\n    def {tool}(self) -> Any:\n        return json.loads({json.dumps(result)!r})\n"
            for tool, result in self.tools.items()
        )
        return (
            "import json\nfrom typing import Any\n\nfrom plugin_runtime import tool\n\n\n"
            "class StandIn:\n    def validate(self) -> None:\n        pass\n"
        ) + tools
