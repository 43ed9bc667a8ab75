"""Checks of option values."""

from plugin_runtime import InvalidInput


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Raises `InvalidInput` if the value is out of range or not a number (NaN)."""
    if not lowest <= value <= highest:
        raise InvalidInput(f"{name} is {value}; it must be from {lowest} to {highest}.")
