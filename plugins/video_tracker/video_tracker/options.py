"""Checks of option values."""

from collections.abc import Collection, Sequence

from plugin_runtime import InvalidInput


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Raises `InvalidInput` if the value is out of range or not a number (NaN)."""
    if not lowest <= value <= highest:
        raise InvalidInput(f"{name} is {value}; it must be from {lowest} to {highest}.")


def check_labels(wanted: Collection[str] | None, known: Sequence[str]) -> None:
    """Raises `InvalidInput` for a label that the model does not have, which would silently find nothing."""
    unknown = sorted(set(wanted or ()) - set(known))
    if unknown:
        raise InvalidInput(f"The model has no label {unknown[0][:40]!r}; it has: {', '.join(known) or 'no labels'}.")
