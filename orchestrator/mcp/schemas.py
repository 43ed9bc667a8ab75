"""Tools as MCP lists them. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.mcp.backend import ListedTool
from orchestrator.mcp.names import tool_name
from orchestrator.mcp.uploads import in_base64

WRAPPED: Final = "result"
"""The member of structured content that holds a value which is no object: MCP takes objects alone there."""
_DEFINITIONS: Final = "$defs"


def listed(tool: ListedTool) -> dict[str, Any]:
    """The tool in the form of `tools/list`."""
    about = tool.about
    shown: dict[str, Any] = {
        "name": tool_name(tool.plugin, about["name"]),
        "description": about.get("description") or f"The tool {about['name']} of {tool.plugin}.",
        "inputSchema": {**in_base64(about.get("input_schema") or {}, about), "type": "object"},
    }
    if (output := output_schema(about)) is not None:
        shown["outputSchema"] = output
    if about.get("idempotent"):
        shown["annotations"] = {"idempotentHint": True}
    return shown


def output_schema(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema of the structured content; None where the plugin does not say what its tool returns."""
    schema = _schema(about)
    if schema is None:
        return None
    if about.get("streaming"):
        return _wrapped({"type": "array", "items": _without_definitions(schema)}, schema)
    return dict(schema) if _is_object(schema) else _wrapped(_without_definitions(schema), schema)


def structured(result: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """A result as structured content, which fits `output_schema`."""
    schema = _schema(about)
    if isinstance(result, dict) and not about.get("streaming") and (schema is None or _is_object(schema)):
        return dict(result)
    return {WRAPPED: result}


def _schema(about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that the plugin gave, with a definition itself in place of a reference to it alone."""
    schema = about.get("output_schema")
    if not isinstance(schema, Mapping):
        return None
    definitions = schema.get(_DEFINITIONS)
    named = str(schema.get("$ref", "")).removeprefix(f"#/{_DEFINITIONS}/")
    if isinstance(definitions, Mapping) and isinstance(definitions.get(named), Mapping):
        return {**definitions[named], _DEFINITIONS: definitions}
    return schema


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object"


def _wrapped(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    # References count from the root, so what they refer to has to stay there.
    definitions = {_DEFINITIONS: outer[_DEFINITIONS]} if _DEFINITIONS in outer else {}
    return {"type": "object", "properties": {WRAPPED: dict(inner)}, "required": [WRAPPED], **definitions}


def _without_definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in (_DEFINITIONS, "$schema")}
