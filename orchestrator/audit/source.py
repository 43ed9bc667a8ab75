"""A plugin's class, read from its source. The source is parsed and never run: an audit is no sandbox."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_MAX_HOPS: Final = 8
"""Imports and base classes followed from the entrypoint."""
_NOT_CODE: Final = frozenset({"tests", "samples", "models"})
_PLAIN_BASES: Final = frozenset({"object", "ABC", "Protocol", "Generic"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class SourceError(Exception):
    """The class cannot be found; the message says where it was expected."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A method marked as a tool."""

    name: str
    described: bool
    untyped: tuple[str, ...]
    """Parameters without a type hint, which have no schema."""
    variadic: bool
    """It takes `*args` or `**kwargs`, for which there is no schema."""


@dataclass(frozen=True, slots=True)
class PluginClass:
    """The class of an entrypoint. `complete` is False if a base class is outside the folder and may hold more."""

    name: str
    methods: frozenset[str]
    tools: tuple[Tool, ...]
    complete: bool


@dataclass(slots=True)
class _Found:
    methods: dict[str, Function] = field(default_factory=dict)
    complete: bool = True


def plugin_class(folder: Path, entrypoint: str) -> PluginClass:
    """The class `package.module:Class` in `folder`. Raises `SourceError`."""
    module, _, name = entrypoint.partition(":")
    found = _Found()
    _collect(folder, module, name, found, hops=0)
    tools = tuple(_tool(method) for method in found.methods.values() if _is_tool(method))
    return PluginClass(name, frozenset(found.methods), tools, found.complete)


def parsed(path: Path) -> ast.Module:
    """Raises `SourceError`."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SourceError(f"{path.name} is over {_MAX_FILE_BYTES} bytes")
        return ast.parse(path.read_bytes(), filename=path.name)
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise SourceError(f"{path.name} does not parse{f' (line {line})' if line else ''}: {error}") from None


def python_files(folder: Path, *, without: frozenset[str] = _NOT_CODE) -> Iterator[Path]:
    """The plugin's own modules."""
    for path in sorted(folder.rglob("*.py")):
        if path.relative_to(folder).parts[0] not in without and path.is_file():
            yield path


def _collect(folder: Path, module: str, name: str, found: _Found, hops: int) -> None:
    path = _module_file(folder, module)
    if path is None:
        raise SourceError(f"the plugin's folder has no module {module}")
    tree = parsed(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _collect_class(folder, module, node, found, hops)
        if isinstance(node, ast.ImportFrom) and (origin := _imported(node, name)) and hops < _MAX_HOPS:
            return _collect(folder, _absolute(module, path, node), origin, found, hops + 1)
    raise SourceError(f"{module.replace('.', '/')}.py defines no class {name}")


def _collect_class(folder: Path, module: str, node: ast.ClassDef, found: _Found, hops: int) -> None:
    for item in node.body:
        if isinstance(item, Function):
            found.methods.setdefault(item.name, item)
    for base in node.bases:
        name = _dotted(base.value if isinstance(base, ast.Subscript) else base)
        if name.rpartition(".")[2] in _PLAIN_BASES:
            continue
        if "." in name or hops >= _MAX_HOPS:
            found.complete = False
            continue
        try:
            _collect(folder, module, name, found, hops + 1)
        except SourceError:
            found.complete = False


def _module_file(folder: Path, module: str) -> Path | None:
    path = folder.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        # A link may lead out of the folder: what it names is not the plugin's.
        if candidate.is_file() and candidate.resolve().is_relative_to(folder.resolve()):
            return candidate
    return None


def _imported(node: ast.ImportFrom, name: str) -> str | None:
    """The name that `name` has in the module it is imported from; None if this import does not bind it."""
    return next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)


def _absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parents = package[: len(package) - (node.level - 1)]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _is_tool(method: Function) -> bool:
    names = (
        _dotted(mark.func if isinstance(mark, ast.Call) else mark).rpartition(".")[2] for mark in method.decorator_list
    )
    return "tool" in names


def _tool(method: Function) -> Tool:
    arguments = method.args
    named = [*arguments.posonlyargs, *arguments.args][1:] + arguments.kwonlyargs
    return Tool(
        name=method.name,
        described=bool((ast.get_docstring(method) or "").strip()),
        untyped=tuple(argument.arg for argument in named if argument.annotation is None),
        variadic=arguments.vararg is not None or arguments.kwarg is not None,
    )


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
