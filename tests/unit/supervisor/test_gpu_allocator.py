"""GpuAllocator: what an engine is asked for, and what is remembered of its answers."""

from dataclasses import replace

import pytest
from support.gpus import FakeGpus, device

from orchestrator.containers.memory import MemoryEngine
from orchestrator.containers.spec import EngineInfo
from orchestrator.errors import EngineRefusedError
from orchestrator.gpus import Grant
from orchestrator.gpus.evidence import NodeAccess
from orchestrator.gpus.refusals import judge_refusal
from orchestrator.settings import Settings
from orchestrator.supervisor.gpu_allocator import GpuAllocator
from orchestrator.supervisor.instance import InstanceEndedError

UUID = device(0).uuid
GRANT = Grant("i1", "tracker", (UUID,))
REFUSED = judge_refusal("invoking the NVIDIA Container Runtime Hook directly is not supported")


class Engine(MemoryEngine):
    """Another's facts."""

    def __init__(self, *, shared: bool = True, **facts: object) -> None:
        super().__init__(device_drivers=("nvidia", "cdi"))
        self.shared, self.facts = shared, facts

    async def info(self) -> EngineInfo:
        return replace(await super().info(), **self.facts)

    async def shares_sockets(self) -> bool:
        return self.shared


async def requests(allocator: GpuAllocator) -> list[str]:
    return [each.driver for each in await allocator.device_requests(GRANT, video=False)]


@pytest.mark.parametrize(
    ("engine", "groups"),
    [
        (Engine(), (44, 7)),
        (Engine(shared=False), (7,)),  # another machine has other numbers
        (Engine(rootless=True), (7,)),  # and so has another user namespace
        (Engine(userns=True), (7,)),
    ],
    ids=["local", "remote", "rootless", "userns-remap"],
)
async def test_the_groups_of_this_hosts_nodes_are_for_an_engine_on_this_host(engine, groups):
    allocator = GpuAllocator(
        FakeGpus(device(0)).host(), engine, groups=(7,), node_access=lambda: NodeAccess((44,), ("/dev/nvidia1",))
    )
    assert {each.groups for each in await allocator.device_requests(GRANT, video=False)} == {groups}
    await engine.close()


async def test_what_was_served_is_the_first_of_the_next_time_until_the_engine_is_another():
    engine = Engine()
    allocator = GpuAllocator(FakeGpus(device(0)).host(), engine)
    first = await allocator.device_requests(GRANT, video=False)
    assert first[0].driver == "nvidia"
    allocator.refused(first[0], REFUSED)
    allocator.served(next(each for each in first if each.driver == "cdi"))
    assert (await requests(allocator))[0] == "cdi"
    report = allocator.report()["engine"]
    assert (report["served_by"], list(report["refused"])) == ("cdi", ["nvidia"])
    assert "plugin" not in report["refused"]["nvidia"]
    engine.device_drivers = ("nvidia",)
    assert (await requests(allocator))[0] == "nvidia"
    assert allocator.report()["engine"] == {"served_by": None, "refused": {}}
    await engine.close()


async def test_a_way_that_is_refused_later_is_no_longer_the_first():
    engine = Engine()
    allocator = GpuAllocator(FakeGpus(device(0)).host(), engine)
    cdi = next(each for each in await allocator.device_requests(GRANT, video=False) if each.driver == "cdi")
    allocator.served(cdi)
    allocator.refused(cdi, REFUSED)
    assert (await requests(allocator))[0] == "nvidia"
    await engine.close()


def test_groups_in_the_settings_are_numbers(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_GPU_GROUPS", "44, 109")
    assert Settings().gpu_groups == (44, 109)
    for wrong in ("video", "0", "-1"):
        monkeypatch.setenv("ORCHESTRATOR_GPU_GROUPS", wrong)
        with pytest.raises(ValueError, match="gpu_groups"):
            Settings()


@pytest.mark.parametrize("asked", ["info", "shares_sockets"])
async def test_an_engine_that_refuses_a_question_is_not_one_that_is_to_be_started(asked, monkeypatch):
    """Such as by a proxy of its socket."""
    engine = Engine()

    async def refuse():
        raise EngineRefusedError(f"GET /{asked} was refused with 403")

    monkeypatch.setattr(engine, asked, refuse)
    with pytest.raises(InstanceEndedError) as ended:
        await GpuAllocator(FakeGpus(device(0)).host(), engine).device_requests(GRANT, video=False)
    assert ended.value.verdict.code == "INIT_ERROR"
    assert "was refused with 403" in ended.value.verdict.reason
    assert "Start it" not in ended.value.verdict.reason
    await engine.close()
