"""What a plugin's entrypoint imports at its start, read and not run: whether its own code compiles, and which packages
it needs.

As a program, where the image is built: `python -I -m plugin_runtime.startup.own_code MODULE FOLDER`.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import warnings
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec

MAX_SHOWN = 120
"""Characters of a line of code in a sentence."""


# As Python's own: an extension beside a source comes before it.
LOADERS: tuple[Any, ...] = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


class OwnCode(NamedTuple):
    """`faults`: a sentence for each file that does not compile. `packages`: the foreign top-level modules."""

    faults: list[str]
    packages: list[str]


def read_code(module: str, folder: str) -> OwnCode:
    """The code in `folder` that importing `module` is certain to import.

    That are the imports on the top level of each file. What stands in a `try`, an `if` or a function need not be
    imported, and a folder may hold templates and code for other Pythons that never is.
    """
    code = OwnCode([], [])
    waiting, seen = list(_from_the_top(module)), set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        spec = _find(name, folder)
        if spec is None:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in code.packages and _find(top, folder) is None:
                code.packages.append(top)
        elif isinstance(spec.loader, SourceFileLoader) and spec.origin is not None:
            package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
            waiting += _read_file(spec.origin, package, folder, code.faults)
    return code


def _find(name: str, folder: str) -> ModuleSpec | None:
    """Where a module of the plugin is. None for one that is not the plugin's."""
    path, spec, head = [folder], None, ""
    for part in name.split("."):
        head = f"{head}.{part}" if head else part
        if head in sys.stdlib_module_names or not path:
            return None  # the standard library comes before the plugin's folder
        # Not PathFinder, which wants the parent of a package without `__init__.py` imported.
        spec = FileFinder(path[0], *LOADERS).find_spec(head)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _read_file(file: str, package: str, folder: str, faults: list[str]) -> list[str]:
    """The modules that a file imports, their packages first."""
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - a name, as Python's own finder has it
            source = opened.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of code that Python compiles all the same
            compile(source, file, "exec", dont_inherit=True)
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # ValueError: a null byte
        faults.append(f"{os.path.relpath(file, folder)}{_described(error)}")
        return []
    except OSError:
        return []  # the import says it
    names = [name for statement in tree.body for name in _imported(statement, package, folder)]
    return [each for name in names for each in _from_the_top(name)]


def _from_the_top(name: str) -> Iterator[str]:
    """`a`, `a.b`, `a.b.c`: each is imported before the next."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _imported(statement: ast.stmt, package: str, folder: str) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        parts = package.split(".")
        base = parts[: len(parts) - statement.level + 1] if statement.level else []
        base += statement.module.split(".") if statement.module else []
        if not base:
            return
        name = ".".join(base)
        yield name
        # What is imported from a package is a module, unless the package itself has something of that name.
        spec = _find(name, folder)
        if spec is not None and spec.submodule_search_locations is not None:
            bound = _bound(spec.origin, name)
            yield from (f"{name}.{alias.name}" for alias in statement.names if alias.name not in bound)


def _bound(file: str | None, package: str) -> set[str]:
    """The names that a package's own file may define, however it does, and that are not its modules."""
    try:
        with open(file or "", "rb") as opened:  # noqa: PTH123 - as above
            tree = ast.parse(opened.read())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return set()
    found = {"*"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module not in (None, package)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return found


def _described(error: BaseException) -> str:
    if not isinstance(error, SyntaxError):
        return f": {str(error) or type(error).__name__}"
    line = f", line {error.lineno}" if error.lineno else ""
    text = " ".join((error.text or "").split())[:MAX_SHOWN]
    return f"{line}: {error.msg}{f': `{text}`' if text else ''}"


def missing_packages(error: BaseException, module: str) -> tuple[str, ...]:
    """All packages that the plugin's own code is certain to import and that are not installed, where importing `module`
    failed for want of one; that one first.
    """
    first = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if first in ("", module.partition(".")[0]):
        return ()
    with contextlib.suppress(Exception):  # of import hooks, and of what the author put into sys.modules
        if find_spec(first) is not None:
            return ()  # a part of it is missing
        own = find_spec(module.partition(".")[0])
        where = next(iter(own.submodule_search_locations or ()), own.origin) if own is not None else None
        if where is not None:
            needed = read_code(module, os.path.dirname(where)).packages  # noqa: PTH120 - a name, as above
            return tuple(dict.fromkeys([first, *(name for name in needed if find_spec(name) is None)]))
    return (first,)


def main(module: str, folder: str) -> int:
    """Print what does not compile. 1 where something does not."""
    faults = read_code(module, folder).faults
    if faults:
        print(f"ERROR: the plugin's code does not compile: {'; '.join(faults)}")  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
