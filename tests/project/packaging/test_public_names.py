"""What other projects import: names, parameters, fields and attributes are those in public_names.txt.

Names that are not listed are not public. A change of the list is a change for users: it belongs in CHANGELOG.md.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, is_typeddict

import pytest

LIST = Path(__file__).with_name("public_names.txt")
PACKAGES = ("orchestrator.client", "orchestrator.testing", "plugin_runtime")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_names_are_those_that_are_listed(package: str) -> None:
    listed = [line for line in LIST.read_text().splitlines() if line.startswith(f"{package}:")]
    assert list(public_names(package)) == listed


def test_the_list_holds_nothing_else() -> None:
    lines = LIST.read_text().splitlines()
    assert [line for line in lines if line.partition(":")[0] not in PACKAGES] == []
    assert len(lines) > 200


def public_names(package: str) -> Iterator[str]:
    """A line for each exported name and each public member of it, with signatures and base classes."""
    module = import_module(package)
    for name in sorted(module.__all__):
        found = getattr(module, name)
        if inspect.isclass(found):
            yield f"{package}: {name}({', '.join(base.__name__ for base in found.__bases__)})"
            yield from sorted(f"{package}: {name}.{member}" for member in set(members(found)))
        else:
            yield f"{package}: {name}{signature(found) if inspect.isroutine(found) else ''}"


def members(kind: type) -> Iterator[str]:
    """Of the class and of its bases in this project: methods with their parameters, properties, fields, attributes."""
    if is_typeddict(kind):
        yield from kind.__required_keys__ | kind.__optional_keys__
    if dataclasses.is_dataclass(kind):
        yield from (field.name for field in dataclasses.fields(kind))
    for owner in kind.__mro__:
        if owner.__module__.partition(".")[0] not in {"orchestrator", "plugin_runtime"} or is_typeddict(kind):
            continue
        for name, value in vars(owner).items():
            public = not name.startswith("_") or name in {"__init__", "__enter__", "__aenter__"}
            if inspect.isroutine(value) and public:
                yield f"{name}{signature(getattr(kind, name))}"
            elif isinstance(value, property) and public:
                yield name
        if "__init__" in vars(owner) and not dataclasses.is_dataclass(owner):
            yield from re.findall(r"self\.([a-z]\w*)(?:: [^=\n]+)? = ", inspect.getsource(owner.__init__))


def signature(function: Any) -> str:
    """Parameters with their kinds and defaults, without annotations."""
    found = inspect.signature(function)
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
