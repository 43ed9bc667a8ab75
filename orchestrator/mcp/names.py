"""Names of tools in MCP: `plugin.tool`. Pure."""

import re
from typing import Final

MAX_LENGTH: Final = 128
_NAME: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_LENGTH}}}")


def tool_name(plugin: str, tool: str) -> str:
    return f"{plugin}.{tool}"


def fits(name: str) -> bool:
    """Whether MCP allows it as the name of a tool: clients may refuse a whole list for one that it does not."""
    return _NAME.fullmatch(name) is not None


def misfit(plugin: str, tool: str) -> str | None:
    """What `audit` says of a tool that no MCP client gets; None for one that they do."""
    name = tool_name(plugin, tool)
    if fits(name):
        return None
    return (
        f"MCP clients do not get the tool {name[:MAX_LENGTH]!r}: such names are of at most {MAX_LENGTH} characters, of "
        "A-Z a-z 0-9 . _ - alone. Rename the tool."
    )


def parts(name: str) -> tuple[str, str]:
    """The plugin and the tool, which is empty where there is no dot. A plugin's name, a DNS label, has none."""
    plugin, _, tool = name.partition(".")
    return plugin, tool
