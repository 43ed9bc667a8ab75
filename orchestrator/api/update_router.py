"""Updates of a plugin: begin one, go back, look at them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Protocol, cast

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.command_body import CommandRoute
from orchestrator.api.context import ApiContext, Context, Who
from orchestrator.api.problems import respond, unknown_plugin
from orchestrator.health.update_report import ReleasesReport, UpdateReport, releases_report, update_report
from orchestrator.supervisor.releases import Release
from orchestrator.supervisor.update import AskedStrategy, Update
from orchestrator.tools import refusals

router = APIRouter(
    prefix="/v1/plugins/{name}",
    tags=["plugins"],
    route_class=CommandRoute,
    responses={404: {"description": "No such plugin"}},
)

Wait = Annotated[float, Query(ge=0, le=600, description="Seconds to wait until the update has ended.")]


class Updatable(Protocol):
    """A plugin's supervisor, as far as its updates go."""

    async def update(self, strategy: AskedStrategy, caller: str | None = None) -> Update:
        """Begin an update, which goes on by itself. `caller`: the name of the key that it comes with. Raises
        `UpdateRefusedError`, `ReleaseStoreError`.
        """

    async def revert(self, caller: str | None = None) -> Update:
        """As `update`, to the former release."""

    async def wait_updated(self, update_id: str) -> None:
        """Returns when the update has ended."""

    def updates(self) -> Sequence[Update]:
        """The newest first."""

    def releases(self) -> tuple[Release | None, Release | None]:
        """What its instances are made from, and what a revert goes back to."""


class UpdateRequest(BaseModel):
    """How to bring up the new release."""

    model_config = ConfigDict(extra="forbid")

    strategy: AskedStrategy = Field(
        "auto",
        description="`overlap`: beside the old instance; `replace`: the old one is stopped first; `auto`: as the "
        "manifest says, which by default is `overlap` where GPU and memory allow it.",
    )


_REFUSALS: dict[int | str, dict[str, str]] = {
    202: {"description": "It is under way", "model": UpdateReport},  # type: ignore[dict-item]
    409: {"description": "Another one is under way, or there is nothing to revert to"},
}


@router.post("/update", response_model=UpdateReport, responses=_REFUSALS)
async def update(
    name: str, context: Context, who: Who, response: Response, *, wait: Wait = 0, request: UpdateRequest | None = None
) -> UpdateReport | Response:
    """Bring up the plugin as its folder has it now, without a gap.

    A candidate is started and proven by `samples/calls.yaml`, then takes all new runs; one that fails is REJECTED, and
    the plugin stays what it was. The answer is 202 while that goes on, and 200 once it has ended within `wait`.
    """
    strategy = (request or UpdateRequest()).strategy
    return await _begun(name, context, response, wait, lambda plugin: plugin.update(strategy, who.name))


@router.post("/revert", response_model=UpdateReport, responses=_REFUSALS)
async def revert(name: str, context: Context, who: Who, response: Response, wait: Wait = 0) -> UpdateReport | Response:
    """Go back to the former release: its manifest and its image, as they were. It stays until the next update."""
    return await _begun(name, context, response, wait, lambda plugin: plugin.revert(who.name))


@router.get("/updates", response_model=list[UpdateReport])
async def updates(name: str, context: Context) -> list[UpdateReport] | Response:
    """The last updates and reverts, the newest first; survives restarts of the orchestrator."""
    plugin = await _find(context, name)
    if plugin is None:
        return unknown_plugin(name, searched=True)
    return [await _report(each, context) for each in plugin.updates()]


@router.get("/releases", response_model=ReleasesReport)
async def releases(name: str, context: Context) -> ReleasesReport | Response:
    """What the instances are made from, and what `revert` would go back to: after an update, or a restart that changed
    something.
    """
    plugin = await _find(context, name)
    return unknown_plugin(name, searched=True) if plugin is None else releases_report(*plugin.releases())


async def _begun(
    name: str,
    context: ApiContext,
    response: Response,
    wait: float,
    begin: Callable[[Updatable], Awaitable[Update]],
) -> UpdateReport | Response:
    if context.shutdown.requested.is_set():
        return respond(refusals.stopping(), plugin=name)
    plugin = await _find(context, name)
    if plugin is None:
        return unknown_plugin(name, searched=True)
    begun = await begin(plugin)
    if wait and not begun.ended:
        ended = asyncio.create_task(plugin.wait_updated(begun.id))
        stopping = asyncio.create_task(context.shutdown.requested.wait())
        try:
            await asyncio.wait((ended, stopping), timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            stopping.cancel()
    now = next((each for each in plugin.updates() if each.id == begun.id), begun)
    response.status_code = 200 if now.ended else 202
    return await _report(now, context)


async def _find(context: ApiContext, name: str) -> Updatable | None:
    return cast("Updatable | None", await context.fleet.discover(name))


async def _report(update: Update, context: ApiContext) -> UpdateReport:
    failed = update.failed_candidate
    post_mortem = None if failed is None else await context.history.post_mortem_of(update.plugin, failed)
    return update_report(update, post_mortem)
