"""An author's type hints → hints that msgspec honours: whoever made the bounds and descriptions in `Annotated`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import math
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKS = "plugin_runtime.checks"
"""The key in `msgspec.Meta.extra` of the checks that msgspec does not make."""
BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern")
SCHEMA_WORDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
WORDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
IGNORED = frozenset({"strict", "repr", "init", "kw_only", "frozen", "annotation", "validate_default", "exclude"})
"""Attributes of foreign metadata that say nothing about a caller's value, or what holds anyway."""
UNIONS = (Union, types.UnionType)


class UnfitHint(TypeError):  # noqa: N818 - what is wrong, in one sentence for the operator
    """A hint that cannot be honoured."""


class NeedsPydantic(Exception):  # noqa: N818 - a decision, no error
    """A hint that pydantic alone can honour."""


class Check(NamedTuple):
    """`holds` is called with the argument; it may raise."""

    expected: str
    holds: Callable[[Any], Any]


class Adapted(NamedTuple):
    """`default` is that of a pydantic `Field` around the whole hint, or NODEFAULT."""

    hint: Any
    default: Any


def adapt(hint: Any) -> Adapted:
    """Raises UnfitHint or NeedsPydantic."""
    adapter = _Adapter()
    return Adapted(adapter.adapt(hint), adapter.default)


def admits_none(hint: Any) -> bool:
    """Whether None is among its values."""
    if typing.get_origin(hint) is Annotated:
        return admits_none(typing.get_args(hint)[0])
    if typing.get_origin(hint) in UNIONS:
        return any(admits_none(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return None in typing.get_args(hint)
    return hint in (None, type(None), Any, object)


def with_none(hint: Any) -> Any:
    """The hint widened by None, inside its metadata."""
    if admits_none(hint):
        return hint
    if typing.get_origin(hint) is Annotated:
        base, *items = typing.get_args(hint)
        return Annotated[(with_none(base), *items)]
    return Union[hint, None]  # noqa: UP007 - of values


def is_field_info(value: object) -> bool:
    """Whether it is what pydantic's `Field()` and its kind return."""
    kinds = type(value).__mro__
    return any(kind.__name__ == "FieldInfo" and kind.__module__.startswith("pydantic") for kind in kinds)


def field_default(field: Any) -> Any:
    """The default of a `Field()`: a value, a factory in `Factory`, or NODEFAULT."""
    if callable(factory := getattr(field, "default_factory", None)):
        return Factory(factory)
    if type(field.default).__name__ in {"PydanticUndefinedType", "UndefinedType", "ellipsis"}:
        return msgspec.NODEFAULT
    return field.default


class Factory(NamedTuple):
    """Makes a default."""

    make: Callable[[], Any]


class _Metadata:
    """What the metadata of one `Annotated` say, collected."""

    def __init__(self) -> None:
        self.bounds: list[tuple[str, Any]] = []
        self.about: dict[str, Any] = {}  # of msgspec.Meta: title, description, examples, extra_json_schema
        self.checks: list[Check] = []
        self.own: list[msgspec.Meta] = []
        self.default: Any = msgspec.NODEFAULT

    def read(self, item: Any) -> None:
        """Raises UnfitHint or NeedsPydantic."""
        if item is None or item is ...:
            return
        if isinstance(item, msgspec.Meta):
            self._read_meta(item)
        elif isinstance(item, str):
            self.about.setdefault("description", item)
        elif isinstance(documentation := getattr(item, "documentation", None), str):
            self.about.setdefault("description", documentation)
        elif is_field_info(item):
            self._read_field(item)
        elif _is_group(item):
            for part in item:
                self.read(part)
        elif callable(function := getattr(item, "func", None)) and type(item).__name__ == "Predicate":
            name = getattr(function, "__qualname__", None) or repr(function)
            self.checks.append(Check(f"a value that fulfils {name}", function))
        elif isinstance(unit := getattr(item, "unit", None), str) and type(item).__name__ == "Unit":
            self.about.setdefault("description", f"in {unit}")
        else:
            self._read_bounds(item)

    def _read_meta(self, meta: msgspec.Meta) -> None:
        self.bounds += [(name, value) for name in BOUNDS if (value := getattr(meta, name)) is not None]
        for name in ("title", "description", "examples", "extra_json_schema"):
            if (value := getattr(meta, name)) is not None:
                self.about[name] = value
        if isinstance(meta.extra, dict):
            self.checks += meta.extra.get(CHECKS, ())

    def _read_field(self, field: Any) -> None:
        for name in ("alias", "validation_alias", "discriminator"):
            if getattr(field, name, None) is not None:
                if name == "discriminator":
                    raise NeedsPydantic
                raise UnfitHint(f"the `{name}` of {field!r} is not supported; name the parameter as callers write it")
        for name in ("title", "description", "examples"):
            if getattr(field, name, None) is not None:
                self.about.setdefault(name, getattr(field, name))
        extra = getattr(field, "json_schema_extra", None)
        if isinstance(extra, dict):
            self.about["extra_json_schema"] = {**self.about.get("extra_json_schema", {}), **extra}
        # Pydantic 1 has them as attributes.
        self.bounds += [(name, value) for name in BOUNDS if (value := getattr(field, name, None)) is not None]
        for item in getattr(field, "metadata", ()):
            self.read(item)
        default = field_default(field)
        if default is not msgspec.NODEFAULT:
            self.default = default

    def _read_bounds(self, item: Any) -> None:
        said = {name: value for name, value in _attributes(item) if value is not None and name not in IGNORED}
        if said.get("allow_inf_nan") is True:
            del said["allow_inf_nan"]
        elif said.get("allow_inf_nan") is False:
            del said["allow_inf_nan"]
            self.checks.append(Check("a finite number", math.isfinite))
        named = bool(said) or any(name in IGNORED for name, _ in _attributes(item))
        if not named or not set(said) <= set(BOUNDS) or isinstance(item, type):
            if hasattr(item, "__get_pydantic_core_schema__") or type(item).__module__.startswith("pydantic"):
                raise NeedsPydantic
            raise UnfitHint(
                f"{item!r} in `Annotated` cannot be honoured; use msgspec.Meta, annotated_types, pydantic.Field or a "
                "string that describes it"
            )
        for name, value in said.items():
            self.bounds.append((name, getattr(value, "pattern", value) if name == "pattern" else value))


class _Adapter:
    """One hint, with the classes in it, each of them once."""

    def __init__(self) -> None:
        self.default: Any = msgspec.NODEFAULT
        self._seen: set[Any] = set()
        self._depth = 0

    def adapt(self, hint: Any) -> Any:
        self._depth += 1
        try:
            return self._adapt(hint)
        finally:
            self._depth -= 1

    def _adapt(self, hint: Any) -> Any:
        origin = typing.get_origin(hint)
        if origin is Annotated:
            base, *items = typing.get_args(hint)
            return self._annotated(base, items)
        if origin in UNIONS:
            options = typing.get_args(hint)
            adapted = tuple(self.adapt(option) for option in options)
            return hint if adapted == options else Union[adapted]  # noqa: UP007 - of values
        if origin is not None and origin is not Literal:
            self._visit(origin)
            return self._generic(hint, origin)
        aliased = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)
        if aliased is not None and not isinstance(hint, type):  # of NewType, or of a `type` statement
            return self.adapt(aliased)
        self._visit(hint)
        return hint

    def _generic(self, hint: Any, origin: Any) -> Any:
        arguments = typing.get_args(hint)
        adapted = tuple(item if item is ... else self.adapt(item) for item in arguments if not isinstance(item, list))
        if len(adapted) != len(arguments) or adapted == arguments:
            return hint
        return types.GenericAlias(origin, adapted) if isinstance(hint, types.GenericAlias) else hint.copy_with(adapted)

    def _annotated(self, base: Any, items: list[Any]) -> Any:
        metadata = _Metadata()
        for item in items:
            metadata.read(item)
        if metadata.default is not msgspec.NODEFAULT:
            if self._depth > 1:
                raise UnfitHint("the default of a `Field` inside another hint is not supported; write it behind `=`")
            self.default = metadata.default
        hint = _restricted(self.adapt(base), metadata)
        return Annotated[hint, msgspec.Meta(**metadata.about)] if metadata.about else hint

    def _visit(self, kind: Any) -> None:
        """Adapt the fields of a class in place, which is where msgspec finds them."""
        if not isinstance(kind, type) or kind in self._seen:
            return
        self._seen.add(kind)
        if hasattr(kind, "__get_pydantic_core_schema__") or "__pydantic_validator__" in vars(kind):
            raise NeedsPydantic
        fields = _fields(kind)
        if fields is None:
            return
        try:
            hints = typing.get_type_hints(kind, include_extras=True)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, msgspec finds it too, and says it
            return
        for name, default in fields.items():
            if name in hints:
                try:
                    self._adapt_field(kind, name, hints[name], default)
                except UnfitHint as error:
                    raise UnfitHint(f"{kind.__name__}.{name}: {error}") from None

    def _adapt_field(self, kind: type, name: str, hint: Any, default: Any) -> None:
        if is_field_info(default):
            raise UnfitHint("a default made by pydantic's `Field` holds in pydantic's classes only; use `Annotated`")
        adapted = self.adapt(with_none(hint) if default is None else hint)
        if adapted == hint:
            return
        if issubclass(kind, msgspec.Struct):
            if _is_native(hint):
                return
            raise UnfitHint("in a msgspec.Struct only msgspec.Meta can be honoured")
        # The class stays the author's own, with its `__post_init__` and its methods; only what msgspec reads of it
        # changes, in the class where the hint stands.
        owner = next((base for base in kind.__mro__ if name in vars(base).get("__annotations__", {})), kind)
        owner.__annotations__[name] = adapted
        for each in (owner, kind):
            if "__msgspec_cache__" in vars(each):
                del each.__msgspec_cache__  # type: ignore[attr-defined]


def _fields(kind: type) -> dict[str, Any] | None:
    """The fields of a class that is made from a JSON object or array, each with its default or NODEFAULT."""
    if dataclasses.is_dataclass(kind):
        return {
            field.name: msgspec.NODEFAULT if field.default is dataclasses.MISSING else field.default
            for field in dataclasses.fields(kind)
        }
    if issubclass(kind, msgspec.Struct):
        return {field.name: field.default for field in msgspec.structs.fields(kind)}
    if typing.is_typeddict(kind):
        return dict.fromkeys(kind.__annotations__, msgspec.NODEFAULT)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        defaults = kind._field_defaults  # type: ignore[attr-defined]
        return {name: defaults.get(name, msgspec.NODEFAULT) for name in kind._fields}
    if hasattr(kind, "__attrs_attrs__"):
        return {each.name: None if each.default is None else msgspec.NODEFAULT for each in kind.__attrs_attrs__}
    return None


def _restricted(hint: Any, metadata: _Metadata) -> Any:
    """With the bounds and checks on every option of the hint that is not None."""
    if not metadata.bounds and not metadata.checks:
        return hint
    if typing.get_origin(hint) in UNIONS:
        options = typing.get_args(hint)
        restricted = tuple(each if admits_none(each) else _restricted(each, metadata) for each in options)
        return Union[restricted]  # noqa: UP007 - of values
    checks = list(metadata.checks)
    for name, value in metadata.bounds:
        bounded = Annotated[hint, msgspec.Meta(**{name: value})] if _fits(hint, name, value) else None
        if bounded is not None:
            hint = bounded
            continue
        checks.append(_check_of(hint, name, value))
        if name in SCHEMA_WORDS and isinstance(value, int | float) and math.isfinite(value):
            hint = Annotated[hint, msgspec.Meta(extra_json_schema={SCHEMA_WORDS[name]: value})]
    return Annotated[hint, msgspec.Meta(extra={CHECKS: tuple(checks)})] if checks else hint


def _fits(hint: Any, name: str, value: Any) -> bool:
    try:
        msgspec.json.Decoder(Annotated[hint, msgspec.Meta(**{name: value})])
    except Exception:  # noqa: BLE001 - msgspec's way of saying no
        return False
    return True


def _check_of(hint: Any, name: str, value: Any) -> Check:
    """For a bound that msgspec cannot make: of dates, decimals, numbers beyond 64 bits. Raises UnfitHint."""
    base = hint
    while typing.get_origin(base) is Annotated:
        base = typing.get_args(base)[0]
    ordered = (int, float, str, decimal.Decimal, dt.date, dt.datetime, dt.time, dt.timedelta)
    if name not in WORDS or base not in ordered:
        shown = getattr(base, "__name__", base)
        raise UnfitHint(f"the bound {name}={value!r} cannot be held against a value of type {shown}")
    expected = f"a value {WORDS[name]} {value}" if name != "multiple_of" else f"a multiple of {value}"
    compare: dict[str, Callable[[Any], Any]] = {
        "ge": lambda given: given >= value,
        "gt": lambda given: given > value,
        "le": lambda given: given <= value,
        "lt": lambda given: given < value,
        "multiple_of": lambda given: not given % value,
    }
    return Check(expected, compare[name])


def _is_native(hint: Any) -> bool:
    """Whether all metadata in it are msgspec's own or strings."""
    if typing.get_origin(hint) is Annotated:
        base, *items = typing.get_args(hint)
        return all(isinstance(item, msgspec.Meta | str) for item in items) and _is_native(base)
    return all(_is_native(item) for item in typing.get_args(hint) if not isinstance(item, list))


def _is_group(item: Any) -> bool:
    """Several metadata in one, as `annotated_types.Interval`."""
    if isinstance(item, type | list | tuple | dict | set):
        return False
    return hasattr(item, "__is_annotated_types_grouped_metadata__") and hasattr(type(item), "__iter__")


def _attributes(item: Any) -> Iterator[tuple[str, Any]]:
    names = dict.fromkeys(getattr(type(item), "__dataclass_fields__", ()))
    names |= dict.fromkeys(getattr(item, "__dict__", ()))
    names |= dict.fromkeys(name for name in BOUNDS if hasattr(item, name))
    for name in names:
        if not name.startswith("_"):
            yield name, getattr(item, name, None)
