"""JSON Schemas as a person reads them: `mode: "fast" or "good" = "fast"`.

Pure; the page's `schema_text.js` uses the same words.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def parameter_lines(tool: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """For each parameter of a tool: its name, type and default; and its description."""
    schema = _mapping(tool.get("input_schema"))
    required = _list(schema.get("required"))
    for name, about in _mapping(schema.get("properties")).items():
        words = Words(schema)
        kind = words.files(about) if name in (tool.get("uploads") or {}) else words.of(about)
        yield f"{shown(name)}: {kind}{words.rest(about, required=name in required)}", words.description(about)


def result_text(tool: Mapping[str, Any]) -> str | None:
    """The type of a tool's result, or of its items if it streams; None if it has no schema."""
    schema = tool.get("output_schema")
    return Words(schema).of(schema) if schema else None


def tool_notes(tool: Mapping[str, Any]) -> str:
    """How a tool is run, where that is not as with most; else empty."""
    notes = ["may be made again after its instance died (--retry)"] if tool.get("idempotent") else []
    if batch := _mapping(tool.get("batch")):
        wait = f"{batch.get('max_wait_ms', 0):g} ms"
        notes.insert(0, f"batched: up to {batch.get('max_size')} callers' items at once, after {wait} at most")
    return "; ".join(notes)


class Words:
    """The words for one parameter.

    An object's fields are named once, then its name stands for them: schemas may be cyclic.
    """

    def __init__(self, root: Schema) -> None:
        self._definitions = _mapping(root.get("$defs"))
        self._named: set[str] = set()

    def of(self, schema: Any) -> str:  # noqa: PLR0911 - one line per form of schema
        if not isinstance(schema, Mapping):
            return "any"
        if isinstance(reference := schema.get("$ref"), str):
            return self._definition(reference.rpartition("/")[2])
        if "const" in schema:
            return literal(schema["const"])
        if choices := _list(schema.get("enum")):
            return _either(map(literal, choices))
        if options := _list(schema.get("anyOf") or schema.get("oneOf")):
            return _either(map(self.of, options))
        if kinds := _list(kind := schema.get("type")):
            return _either(self.of({**schema, "type": one}) for one in kinds)
        return self._plain(str(kind or "any"), schema)

    def _plain(self, kind: str, schema: Schema) -> str:
        """A type without alternatives."""
        match kind:
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
            case "string":
                return _string(schema)
            case "integer" | "number":
                return " ".join(filter(None, (kind, _range(schema))))
        return kind

    def files(self, schema: Any) -> str:
        """What an upload parameter takes: one file or several."""
        several = next((each for each in self._options(schema) if each.get("type") == "array"), None)
        return "file" if several is None else "files" + _count(several)

    def rest(self, schema: Any, *, required: bool) -> str:
        """The default, or that there is no need to give one."""
        if required:
            return ""
        default = schema.get("default") if isinstance(schema, Mapping) else None
        return " (optional)" if default is None else f" = {literal(default)}"

    def description(self, schema: Any) -> str:
        return next((str(each["description"]) for each in self._options(schema) if each.get("description")), "")

    def _options(self, schema: Any) -> Iterator[Schema]:
        """The schema itself, and what it refers to."""
        ahead, seen = [schema], 0
        while ahead and seen < 64:  # references may be a cycle
            each, seen = ahead.pop(0), seen + 1
            if isinstance(each, Mapping):
                yield each
                if isinstance(reference := each.get("$ref"), str):
                    ahead.append(self._definitions.get(reference.rpartition("/")[2]))
                ahead += _list(each.get("anyOf"))

    def _definition(self, name: str) -> str:
        if name in self._named:
            return shown(name)
        self._named.add(name)
        schema = self._definitions.get(name)
        if isinstance(schema, Mapping) and schema.get("properties") and not _is_file(schema):
            return f"{shown(name)} {self.of({**schema, 'title': None})}"
        return self.of(schema)

    def _array(self, schema: Schema) -> str:
        if first := _list(schema.get("prefixItems")):
            return f"[{', '.join(map(self.of, first))}]"
        items = schema.get("items")
        if not items or not isinstance(items, Mapping):
            return "list" + _count(schema)
        inner = self.of(items)
        kind = "set" if schema.get("uniqueItems") else "list"
        return f"{kind} of {f'({inner})' if ' or ' in inner else inner}{_count(schema)}"

    def _object(self, schema: Schema) -> str:
        if fields := _mapping(schema.get("properties")):
            if _is_file(schema):
                return "File"
            required = _list(schema.get("required"))
            inner = (
                f"{shown(name)}: {self.of(about)}{self.rest(about, required=name in required)}"
                for name, about in fields.items()
            )
            title = f"{shown(str(schema['title']))} " if schema.get("title") else ""
            return f"{title}{{{', '.join(inner)}}}"
        values = schema.get("additionalProperties")
        if isinstance(values, Mapping) and values:
            return f"object of {self.of(values)}"
        return "object"


def _is_file(schema: Schema) -> bool:
    """Whether it describes the reference to a file of a result, and no type of an author with the same name."""
    return schema.get("title") == "File" and {"file", "sha256", "url"} <= set(_mapping(schema.get("properties")))


def _mapping(value: Any) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def shown(name: str) -> str:
    """A name from a plugin, without what moves a terminal's cursor."""
    return name if name.isprintable() else literal(name)


def literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=not str(value).isprintable())


def _either(words: Iterable[str]) -> str:
    """Each alternative once, null at the end."""
    return " or ".join(sorted(dict.fromkeys(words), key="null".__eq__))


def _string(schema: Schema) -> str:
    if schema.get("contentEncoding") == "base64":
        return "base64"
    words = ["string"]
    if schema.get("format"):
        words.append(f"({schema['format']})")
    if size := _between(schema.get("minLength"), schema.get("maxLength")):
        words.append(f"of {size} characters")
    if schema.get("pattern"):
        words.append(f"matching {schema['pattern']}")
    return " ".join(words)


def _range(schema: Schema) -> str:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    words = [_between(lowest, highest)]
    words += [f"over {over}" if over is not None else "", f"under {under}" if under is not None else ""]
    words.append(f"in steps of {schema['multipleOf']}" if schema.get("multipleOf") else "")
    return ", ".join(filter(None, words))


def _count(schema: Schema) -> str:
    size = _between(schema.get("minItems"), schema.get("maxItems"))
    return f", {size} of them" if size else ""


def _between(least: Any, most: Any) -> str:
    if least is None and most is None:
        return ""
    if least == most:
        return str(least)
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"{least} to {most}"
