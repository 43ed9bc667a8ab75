"""Which values of an option make sense."""

from collections.abc import Collection, Sequence

from plugin_runtime import InvalidInput


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Raises `InvalidInput`, also for what is no number at all (NaN)."""
    if not lowest <= value <= highest:
        raise InvalidInput(f"{name} is {value}; it must be from {lowest} to {highest}.")


def check_labels(wanted: Collection[str] | None, known: Sequence[str]) -> None:
    """Raises `InvalidInput` for a label that the model does not have: it would find nothing and not say why."""
    unknown = sorted(set(wanted or ()) - set(known))
    if unknown:
        raise InvalidInput(f"The model knows no {unknown[0][:40]!r}; it knows: {', '.join(known) or 'no labels'}.")
