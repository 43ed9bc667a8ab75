"""Restart: prepares the new instance of a plugin while the old one serves."""

import asyncio
import logging
from datetime import UTC, datetime

from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.plugin_loader import DiscoveredPlugin
from orchestrator.registry import PendingRestart
from orchestrator.sandbox.verdict import Verdict
from orchestrator.supervisor.container_policy import effective_limits
from orchestrator.supervisor.deps import SupervisorDeps
from orchestrator.supervisor.instance import InstanceEndedError
from orchestrator.supervisor.preparation import Prepared, prepare
from orchestrator.supervisor.start_verdict import is_defect, verdict_of_manifest, verdict_of_preparation

_log = logging.getLogger(__name__)


class Restart:
    """A restart of an instance that serves, until it is decided whether there can be a new one.

    It ends in one of four ways. It is prepared, and then replaces the instance; it is refused, and nothing else has
    happened; `stop` refuses it; or it is superseded by a newer one, whose outcome it has.
    """

    def __init__(
        self, plugin: DiscoveredPlugin, content: str | None, deps: SupervisorDeps, slow: asyncio.Event
    ) -> None:
        """Begin to prepare. `content`: by `content_of`. `slow` is set when a build begins."""
        self.plugin = plugin
        self.outcome: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        """Why it was refused; None once the new instance has begun."""
        self._content = content
        self._deps = deps
        self._slow = slow
        self._closed = False
        self._requested_at = datetime.now(UTC)
        deps.registry.set_restart(plugin.name, PendingRestart(self._requested_at))
        self._preparing = asyncio.create_task(self._prepare(), name=f"restart of {plugin.name}")

    def same_as(self, content: str | None) -> bool:
        """Whether a restart that begins now would make the same instance."""
        return content is not None and content == self._content

    async def prepared(self) -> Prepared | None:
        """What the new instance is made of; None where this was refused, stopped or superseded."""
        await asyncio.wait({self._preparing})
        if self._closed or self._preparing.cancelled():
            return None
        error = self._preparing.exception()
        if error is None:
            return self._preparing.result()
        self._refuse(error)
        return None

    def stop(self) -> None:
        """Refuse it: the plugin is stopped."""
        verdict = Verdict(ReasonCode.STOPPED, "The plugin was stopped before its restart was prepared.")
        self._deps.registry.set_restart(self.plugin.name, None)
        self._note_refusal(verdict)
        self.cancel()
        self.end(verdict)

    def superseded_by(self, newer: "Restart") -> None:
        self.cancel()
        newer.outcome.add_done_callback(lambda outcome: self.end(outcome.result()))

    def cancel(self) -> None:
        """Stop to prepare."""
        self._closed = True
        self._preparing.cancel()

    async def close(self) -> None:
        """Stop to prepare, and return when nothing of it is left."""
        self.cancel()
        await asyncio.wait({self._preparing})

    def end(self, outcome: Verdict | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    async def _prepare(self) -> Prepared:
        manifest, deps = self.plugin.manifest, self._deps
        if manifest is None:
            raise InstanceEndedError(verdict_of_manifest(self.plugin.error))
        limits = effective_limits(manifest, deps.settings)
        return await prepare(deps, manifest, limits, self.plugin.folder, on_build=self._slow.set)

    def _refuse(self, error: BaseException) -> None:
        name, registry = self.plugin.name, self._deps.registry
        if is_defect(error):
            _log.error("%s: a defect in the orchestrator", name, exc_info=error)
        verdict = verdict_of_preparation(error)
        registry.set_restart(name, PendingRestart(self._requested_at, verdict.code, verdict.reason))
        self._note_refusal(verdict)
        _log.warning("%s: the restart was refused: %s: %s", name, verdict.code, verdict.reason, extra={"plugin": name})
        self.end(verdict)

    def _note_refusal(self, verdict: Verdict) -> None:
        self._deps.registry.note(self.plugin.name, f"The restart was refused: {verdict.reason}", verdict.code)
