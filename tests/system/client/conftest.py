"""Both clients, as in the unit tests."""

from unit.client.conftest import _no_pauses, make

__all__ = ["_no_pauses", "make"]
