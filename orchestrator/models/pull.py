"""Pull: one file from its addresses into the store. Several pulls of one file at once are one."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import httpx

from orchestrator.errors import OrchestratorError
from orchestrator.models.plan import MAX_RETRIES, WantedFile, retry_delay
from orchestrator.models.sources import shown_url
from orchestrator.models.store import ModelStore, Partial
from orchestrator.models.transfer import TransferError, transfer

_WAIT_INTERVAL: Final = 0.2  # seconds between two looks at another process's pull


class PullError(OrchestratorError):
    """No address gave the file; the text names each with its reason."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is, in bytes. `checking`: what an earlier one left is hashed. `waiting`: for another process's
    pull of the same file.
    """

    phase: Literal["checking", "fetching", "waiting"]
    done: int
    total: int | None


class Reporter(Protocol):
    """Whoever shows a pull. `label`: of the file."""

    def progress(self, label: str, progress: Progress) -> None:
        """Called often: for each piece of the file."""

    def note(self, label: str, sentence: str) -> None:
        """Something happened that an operator may want to know: a retry, another address, wrong bytes."""


@dataclass
class Puller:
    """Pulls files into `store`. `sleep` and `random` are replaced in tests."""

    store: ModelStore
    client: httpx.Client
    reporter: Reporter
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = field(default=random.random)

    def pull(self, file: WantedFile) -> Literal["present", "fetched", "waited"]:
        """Return when the store has the file: it had it before, it was fetched, or another process fetched it
        meanwhile. Raises `PullError`, `ModelStoreError`.
        """
        waited = False
        while self.store.find(file.sha256) is None:
            partial = self.store.open_partial(file.sha256)
            if partial is not None:
                with partial:
                    # Another process may have finished it between the two looks.
                    if self.store.find(file.sha256) is None:
                        self._fetch(file, partial)
                        return "fetched"
                    partial.discard()
            elif not waited:
                self.reporter.note(file.label, "another pull fetches it already: waiting for that")
            waited = True
            self._show_other(file)
        return "waited" if waited else "present"

    def _show_other(self, file: WantedFile) -> None:
        other = self.store.partial(file.sha256)
        if other is not None and other.under_way:
            self.reporter.progress(file.label, Progress("waiting", other.size, other.total))
            self.sleep(_WAIT_INTERVAL)

    def _fetch(self, file: WantedFile, partial: Partial) -> None:
        try:
            partial.load(lambda done, total: self.reporter.progress(file.label, Progress("checking", done, total)))
            if partial.size and partial.digest == file.sha256:  # the earlier pull ended just before the last step
                partial.publish()
                return
            if partial.size:
                self.reporter.note(file.label, "an earlier pull left a part of it: going on from there")
            self._from_any(file, partial)
        finally:
            if partial.empty:
                partial.discard()

    def _from_any(self, file: WantedFile, partial: Partial) -> None:
        reasons = []
        for url in file.urls:
            try:
                self._from(url, file, partial)
            except TransferError as error:
                reasons.append(f"{shown_url(url)}: {error}")
                if len(reasons) < len(file.urls):
                    self.reporter.note(file.label, f"{reasons[-1]}; trying the next address")
            else:
                return
        raise PullError("; ".join(reasons))

    def _from(self, url: str, file: WantedFile, partial: Partial) -> None:
        """Fetch it from one address. Raises `TransferError` with the reason to give that up."""
        furthest, failures, anew = partial.size, 0, False
        while True:
            try:
                transfer(
                    self.client,
                    self.store,
                    partial,
                    url,
                    lambda: self.reporter.progress(file.label, Progress("fetching", partial.size, partial.total)),
                )
            except TransferError as error:
                if partial.size > furthest:  # new bytes came: whatever cut this off, it goes forward
                    furthest, failures = partial.size, failures if error.too_slow else 0
                failures += 1
                if not error.transient or failures > MAX_RETRIES:
                    raise
                delay = retry_delay(failures, error.delay, self.random())
                self.reporter.note(file.label, f"{shown_url(url)}: {error}; trying again in {delay:.1f} s")
                self.sleep(delay)
                continue
            if partial.digest == file.sha256:
                partial.publish()
                return
            wrong = f"expected SHA-256 {file.sha256}, got {partial.digest} ({partial.size} bytes, thrown away)"
            whole = partial.whole
            partial.rewind()
            if whole or anew:
                raise TransferError(f"it has other bytes: {wrong}")
            # The wrong ones may be those of an earlier pull or of another address.
            self.reporter.note(
                file.label, f"{shown_url(url)}: the file put together has other bytes: {wrong}; starting anew"
            )
            furthest, failures, anew = 0, 0, True
