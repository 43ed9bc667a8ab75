"""A plugin leaves this host for another one: it takes no new runs here, those that it has end, then it is stopped.

Of a plugin that was started elsewhere while this host was silent, the epoch says so: a number that a front raises with
each forced move, of which a host stores the highest that it has seen. A host with a
lower number than another's receives the higher one from a front, and ends its instances at once.
"""

from typing import Protocol

import msgspec

from orchestrator.errors import OrchestratorError


class Epoch(msgspec.Struct, frozen=True, order=True):
    """A forced move: its number, the host that it moved the plugin `to`, and the silent hosts where it `ends`."""

    number: int = 0
    to: str = ""
    ends: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, str]:
        """Of two epochs the one with the higher rank holds: two fronts may have made the same number."""
        return self.number, self.to


class StaleEpochError(OrchestratorError):
    """A command of an epoch that is over: the plugin was moved again since."""


class Movable(Protocol):
    """A `PluginSupervisor`, as far as it is needed here."""

    name: str

    @property
    def moved_to(self) -> str | None:
        """The host that it was, or is being, handed over to."""

    @property
    def epoch(self) -> Epoch:
        """The highest seen."""

    async def record_move(self, to: str | None, epoch: Epoch) -> None:
        """Have it on file. Raises `ReleaseStoreError`."""

    async def unused(self, seconds: float) -> None:
        """Returns when no run executes or waits, when it was started here again, and after so many seconds."""

    async def stop(self, reason: str) -> None:
        """End all instances; the orchestrator's next start begins none."""

    async def show_stopped(self, reason: str) -> None:
        """Where it had ended before, this is why it does not serve."""


async def take_over(plugin: Movable, epoch: Epoch) -> None:
    """The plugin is this host's from this epoch on. Raises `StaleEpochError`, `ReleaseStoreError`."""
    _require_current(plugin, epoch)
    await plugin.record_move(None, epoch)


async def hand_over(plugin: Movable, to: str, epoch: Epoch | None, *, drain: float) -> None:
    """Stop the plugin here for the host `to`, with what it says of itself then. Runs have `drain` seconds to end; with
    an `epoch` they are ended at once. Raises `StaleEpochError`, `ReleaseStoreError`.
    """
    if epoch is not None:
        _require_current(plugin, epoch)
    await plugin.record_move(to, epoch or plugin.epoch)
    if epoch is None:
        await plugin.unused(drain)
        if plugin.moved_to != to:  # an operator has started it here again
            return
    reason = moved_sentence(plugin.name, to, forced=epoch is not None)
    await plugin.stop(reason)
    await plugin.show_stopped(reason)


def moved_sentence(plugin: str, to: str, *, forced: bool = False) -> str:
    """Why it does not serve here."""
    how = "moved by force, while this host was silent," if forced else "moved"
    return f"{plugin} was {how} to the host {to}, where it serves; `orchestrator move {plugin}` moves it back."


def _require_current(plugin: Movable, epoch: Epoch) -> None:
    if epoch.rank < plugin.epoch.rank:
        raise StaleEpochError(
            f"{plugin.name} was moved to {plugin.epoch.to} since (epoch {plugin.epoch.number}, and this command is of "
            f"epoch {epoch.number}). Look at the plugin's placement, then give the command again."
        )
