"""A mapping from a YAML file that anybody may have written: bounded, and without aliases."""

from pathlib import Path
from typing import Any, Final

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer, ComposerError
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from orchestrator.errors import ManifestError

_MAX_BYTES: Final = 256 * 1024


def read_mapping(path: Path, label: str) -> dict[str, Any]:
    """The mapping in the file at `path`. Raises `ManifestError`, in which the file is called `label`."""
    try:
        if not path.is_file():  # opening a named pipe would block
            raise ManifestError(f"{label}: expected a file")
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ManifestError(f"{label}: expected at most {_MAX_BYTES} bytes; is this really a manifest?")
        content = _Loader(text.decode("utf-8")).get_single_data()
    except OSError as error:
        raise ManifestError(f"{label}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{label}: expected UTF-8 text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ManifestError(f"{label}: is not valid YAML{where}: {problem}") from None
    if not isinstance(content, dict):
        raise ManifestError(
            f"{label}: expected fields such as `version:` and `entrypoint:`, not a {type(content).__name__}"
        )
    return content


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
