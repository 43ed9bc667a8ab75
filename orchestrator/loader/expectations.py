"""Compares the answer to a sample call with what its author expects. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.formatting import format_size
from orchestrator.loader.samples import Expectation, ExpectedFile, Tolerance

_EXACT: Final = Tolerance()
_MAX_SHOWN: Final = 120
"""Characters of a value, or of a plugin's error, in a sentence."""


def difference(
    expect: Expectation, *, status: int, result: Any, error: str | None, files: Sequence[tuple[str, int]] = ()
) -> str | None:
    """The first difference, as `expected …, got …`; None where the answer is as expected.

    `status` is HTTP's; `result` is JSON that has been decoded; `files` are the media type and the bytes of each.
    """
    if status != expect.status:
        got = f"status {status}" + (f" ({_cut(error)})" if error else "")
        return f"expected status {expect.status}, got {got}"
    if status != 200:
        wanted = expect.contains
        if wanted is not None and wanted not in (error or ""):
            return f"expected an error that contains {_show(wanted)}, got {_show(error)}"
        return None
    return _of_result(expect, result) or _of_files(expect.files, files)


def _of_result(expect: Expectation, result: Any) -> str | None:
    tolerance = expect.tolerance or _EXACT
    if expect.whole and (found := _unequal(expect.equals, result, tolerance, "result")) is not None:
        return found
    if expect.contains is not None and not _contains(expect.contains, result, tolerance):
        return f"expected a result that contains {_show(expect.contains)}, got {_show(result)}"
    if expect.min_items is not None:
        if not isinstance(result, list | dict | str):
            return f"expected at least {expect.min_items} items, got {_show(result)}"
        if len(result) < expect.min_items:
            return f"expected at least {expect.min_items} items, got {len(result)}"
    return None


def _of_files(expected: Sequence[ExpectedFile] | None, files: Sequence[tuple[str, int]]) -> str | None:
    if expected is None:
        return None
    if len(expected) != len(files):
        return f"expected {len(expected)} files, got {len(files)}"
    for number, (wanted, (media_type, size)) in enumerate(zip(expected, files, strict=True), 1):
        if wanted.media_type is not None and media_type.partition(";")[0].strip() != wanted.media_type:
            return f"expected file {number} to be {wanted.media_type}, got {_cut(media_type)}"
        if wanted.min_size is not None and size < wanted.min_size:
            return f"expected file {number} to have at least {format_size(wanted.min_size)}, got {format_size(size)}"
        if wanted.max_size is not None and size > wanted.max_size:
            return f"expected file {number} to have at most {format_size(wanted.max_size)}, got {format_size(size)}"
    return None


def _unequal(expected: Any, found: Any, tolerance: Tolerance, where: str) -> str | None:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if missing := expected.keys() - found.keys():
            return f"expected {where} to have the field {_cut(min(map(str, missing)))}, got {_show(found)}"
        if beyond := found.keys() - expected.keys():
            return f"expected {where} without the field {_cut(min(map(str, beyond)))}, got {_show(found)}"
        pairs = ((expected[name], found[name], f"{where}.{_cut(str(name))}") for name in expected)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"expected {where} to have {len(expected)} items, got {len(found)}"
        pairs = ((one, other, f"{where}[{at}]") for at, (one, other) in enumerate(zip(expected, found, strict=True)))
    else:
        near = _same(expected, found, tolerance)
        return (
            None
            if near
            else f"expected {where} to be {_show(expected)}{_within(expected, tolerance)}, got {_show(found)}"
        )
    return next((text for pair in pairs if (text := _unequal(pair[0], pair[1], tolerance, pair[2])) is not None), None)


def _contains(part: Any, found: Any, tolerance: Tolerance) -> bool:
    """As in `plugins/README.md`: a text in a text, or in any within; fields of an object; items of a list."""
    if isinstance(part, str):
        return _occurs(part, found)
    if isinstance(part, Mapping):
        return isinstance(found, Mapping) and all(
            name in found and _field(inner, found[name], tolerance) for name, inner in part.items()
        )
    if isinstance(part, list):
        return isinstance(found, list) and all(any(_field(one, other, tolerance) for other in found) for one in part)
    return (
        any(_same(part, one, tolerance) for one in found) if isinstance(found, list) else _same(part, found, tolerance)
    )


def _field(part: Any, found: Any, tolerance: Tolerance) -> bool:
    """A value within `contains`: objects and lists may have more than is named, everything else is equal."""
    inner = isinstance(part, Mapping | list)
    return _contains(part, found, tolerance) if inner else _same(part, found, tolerance)


def _occurs(text: str, found: Any) -> bool:
    if isinstance(found, str):
        return text in found
    if isinstance(found, Mapping):
        return any(text in name or _occurs(text, inner) for name, inner in found.items())
    return isinstance(found, list) and any(_occurs(text, inner) for inner in found)


def _same(expected: Any, found: Any, tolerance: Tolerance) -> bool:
    numbers = _is_number(expected) and _is_number(found)
    # In Python True equals 1, in JSON it does not.
    return tolerance.allows(expected, found) if numbers else type(expected) is type(found) and expected == found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(expected: Any, tolerance: Tolerance) -> str:
    if not _is_number(expected) or tolerance == _EXACT:
        return ""
    return f" ± {tolerance.relative:.4g} of it" if tolerance.relative else f" ± {tolerance.absolute:g}"


def _show(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
