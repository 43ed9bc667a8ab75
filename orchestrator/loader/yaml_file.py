"""Reads a YAML file that a plugin's author wrote, bounded and without aliases, and says what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml._yaml import CParser
from yaml.composer import Composer, ComposerError
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from orchestrator.errors import ManifestError
from orchestrator.models.sources import without_credentials

_MAX_BYTES = 256 * 1024
_MAX_SHOWN = 80  # characters of a wrong value in a message


@dataclass(frozen=True, slots=True)
class YamlFile:
    """`content` is of YAML's own types. `item_lines`: the lines on which the items begin, where it is a list."""

    content: Any
    item_lines: tuple[int, ...] = ()


def read_yaml(path: Path, label: str) -> YamlFile:
    """Raises `ManifestError`, which calls the file by its `label`."""
    try:
        if not path.is_file():  # opening a named pipe would block
            raise ManifestError(f"{label}: expected a file")
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ManifestError(f"{label}: expected at most {_MAX_BYTES} bytes")
        loader = _Loader(text.decode("utf-8"))
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise ManifestError(f"{label}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{label}: expected UTF-8 text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ManifestError(f"{label}: is not valid YAML{where}: {problem}") from None
    items = node.value if isinstance(node, yaml.SequenceNode) else ()
    return YamlFile(content, tuple(item.start_mark.line + 1 for item in items))


def shortened(value: Any) -> str:
    """A value in a message."""
    text = without_credentials(repr(value))  # before it is cut, which would hide where a URL's credentials end
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 11]}…{text[-10:]}"


def explained(error: ValidationError, whole: str, expected: Mapping[str, str]) -> str:
    """The first five problems, each with its field. `whole` stands for the file itself; `expected`: by field, the form
    of texts that have one.
    """
    return "; ".join(_problem(item, whole, expected) for item in error.errors()[:5])


def _problem(item: Any, whole: str, expected: Mapping[str, str]) -> str:
    field = ".".join(str(part) for part in item["loc"]) or whole
    match item["type"]:
        case "extra_forbidden":
            return f"{field}: unknown field"
        case "missing":
            return f"{field}: required field is missing"
        case "value_error":
            return f"{field}: {item['ctx']['error']}"
        case "string_pattern_mismatch":
            form = expected.get(field.split(".")[0], "another form")
            return f"{field}: {shortened(item['input'])} does not fit; expected {form}"
        case "string_type" if isinstance(item["input"], int | float | date):
            return f"{field}: expected a text, not {shortened(item['input'])}; put it in quotes"
        case _:
            return f"{field}: {item['msg']}, not {shortened(item['input'])}"


class _Loader(Composer, CParser, SafeConstructor, Resolver):
    """A safe loader without aliases: some hundred bytes of them expand to gigabytes."""

    # libyaml parses, which is six times faster. Python composes the nodes, because it limits nesting: yaml.CSafeLoader
    # overflows the stack of the process.

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if isinstance(event := self.peek_event(), yaml.AliasEvent):
            mark: Any = event.start_mark
            raise ComposerError(problem="aliases (*name) are not supported", problem_mark=mark)
        return super().compose_node(parent, index)
