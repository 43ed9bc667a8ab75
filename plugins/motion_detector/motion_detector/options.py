"""Which values of an option make sense."""

from plugin_runtime import InvalidInput


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Raises `InvalidInput`, also for what is no number at all (NaN)."""
    if not lowest <= value <= highest:
        raise InvalidInput(f"{name} is {value}; it must be from {lowest} to {highest}.")
