"""What a front asks of a host, and has it do: placement, drain, and the two sides of a move."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.access.principal import Principal
from orchestrator.api import problems
from orchestrator.api.context import ApiContext, Context, Who
from orchestrator.api.plugins_router import after
from orchestrator.api.problems import problem, unknown_plugin
from orchestrator.health.health_model import PluginDetailResponse
from orchestrator.supervisor.drain_mark import DrainMarkError
from orchestrator.supervisor.hand_over import Epoch, StaleEpochError, hand_over, take_over

router = APIRouter(tags=["host"])

_HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_STALE_EPOCH: Mapping[int | str, dict[str, Any]] = {409: {"description": "The plugin was moved again since"}}


class EpochModel(BaseModel):
    """A forced move. Of two with the same number the one whose `to` is later in the alphabet holds."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1, lt=2**53, strict=True)
    to: _HostName
    ends: list[_HostName] = Field(description="The hosts that did not answer, where what still runs is to end.")

    def value(self) -> Epoch:
        return Epoch(self.number, self.to, tuple(self.ends))


class HandOver(BaseModel):
    """To whom a plugin goes."""

    model_config = ConfigDict(extra="forbid")

    to: _HostName
    epoch: EpochModel | None = Field(None, description="It serves there already: what runs here is ended at once.")


class TakeOver(BaseModel):
    """The epoch from which on a plugin is this host's."""

    model_config = ConfigDict(extra="forbid")

    epoch: EpochModel


class HostReport(BaseModel):
    """`GET /v1/host`."""

    drained: bool = Field(description="An operator wants nothing new on this host; a front obeys.")
    epochs: dict[str, EpochModel] = Field(description="By plugin, the highest epoch seen; none for most.")


@router.get("/v1/host")
async def host(context: Context, who: Who) -> HostReport:
    """What this host has on file that no plugin's health says."""
    return _report(context, who.sees)


@router.post("/v1/host/drain", response_model=HostReport)
async def drain(context: Context, who: Who) -> HostReport | Response:
    """Mark the host as drained. By itself that changes nothing here: a front starts nothing new on it from now on."""
    return await _marked(context, who, drained=True)


@router.post("/v1/host/resume", response_model=HostReport)
async def resume(context: Context, who: Who) -> HostReport | Response:
    """Take the mark back."""
    return await _marked(context, who, drained=False)


@router.get("/v1/plugins/{name}/placement", tags=["plugins"], response_model=None)
async def placement(name: str, context: Context) -> Mapping[str, Any] | Response:
    """What the plugin's manifest wants of a host, and what this one has of it: its image, its models, memory.

    A front answers with each of its hosts and the rule that accepted or refused it.
    """
    supervisor = context.fleet.get(name)
    return unknown_plugin(name) if supervisor is None else await context.fleet.placement(supervisor)


@router.post(
    "/v1/plugins/{name}/hand-over", tags=["plugins"], response_model=PluginDetailResponse, responses={**_STALE_EPOCH}
)
async def hand_over_plugin(name: str, to: HandOver, context: Context) -> PluginDetailResponse | Response:
    """Stop the plugin on this host because another one has it: new runs are refused at once (503, `STOPPED`), those
    under way and waiting have the manifest's `update.drain`. Answers once its containers are removed.
    """
    supervisor = context.fleet.get(name)
    if supervisor is None:
        return unknown_plugin(name)
    manifest = supervisor.manifest
    seconds = 0.0 if manifest is None else manifest.update.drain.total_seconds()
    try:
        await hand_over(supervisor, to.to, None if to.epoch is None else to.epoch.value(), drain=seconds)
    except StaleEpochError as error:
        return problem(409, str(error), error_type="StaleEpoch", plugin=name)
    return await after(supervisor, context, 0)


@router.post(
    "/v1/plugins/{name}/take-over", tags=["plugins"], response_model=PluginDetailResponse, responses={**_STALE_EPOCH}
)
async def take_over_plugin(name: str, taken: TakeOver, context: Context) -> PluginDetailResponse | Response:
    """Have on file that the plugin is this host's from this epoch on. It starts nothing."""
    supervisor = await context.fleet.discover(name)
    if supervisor is None:
        return unknown_plugin(name)
    try:
        await take_over(supervisor, taken.epoch.value())
    except StaleEpochError as error:
        return problem(409, str(error), error_type="StaleEpoch", plugin=name)
    return await after(supervisor, context, 0)


async def _marked(context: ApiContext, who: Principal, *, drained: bool) -> HostReport | Response:
    if not who.sees_every_plugin:
        return problems.hosts_need_every_plugin()
    try:
        await asyncio.to_thread(context.drain_mark.put, drained=drained)
    except DrainMarkError as error:
        return problem(503, str(error), error_type="NotStored")
    return _report(context, who.sees)


def _report(context: ApiContext, sees: Callable[[str], bool]) -> HostReport:
    names = [record.name for record in context.registry.list() if sees(record.name)]
    supervisors = [found for name in names if (found := context.fleet.get(name)) is not None]
    return HostReport(
        drained=context.drain_mark.drained,
        epochs={
            each.name: EpochModel(number=each.epoch.number, to=each.epoch.to, ends=list(each.epoch.ends))
            for each in supervisors
            if each.epoch.number
        },
    )
