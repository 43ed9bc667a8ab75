"""The real pynvml, in its child process, against a stand-in library: values, errors, hangs, crashes."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from simulated_nvidia.host import GIB, SimulatedGpu, SimulatedMigInstance, SimulatedState

from orchestrator.gpus.inventory import FaultKind
from orchestrator.gpus.probe import NvmlProbe

pytestmark = pytest.mark.slow

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"


@pytest.fixture
def probe(nvidia):
    return NvmlProbe(environment=nvidia.environment)


async def test_every_value_that_nvml_reports_is_in_the_inventory(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A), SimulatedGpu(B, name="Simulated T4", ecc_errors=3))))
    before, clock = datetime.now(UTC), time.monotonic()
    inventory = await probe.read()
    assert inventory.fault is None
    assert (inventory.driver_version, inventory.cuda_version) == ("550.54.15", "12.4")
    assert inventory.library_version == "550.54.15"
    assert before <= inventory.observed_at < before + timedelta(seconds=10)
    assert clock <= inventory.probe_started <= time.monotonic()
    first, second = inventory.devices
    assert (first.uuid, first.index, first.name) == (A, 0, "Simulated A100")
    assert (first.memory_total, first.memory_used) == (80 * GIB, GIB // 2)
    assert (first.utilization, first.temperature, first.ecc_errors) == (7, 41, 0)
    assert (first.mig_enabled, first.parent_uuid, first.fault) == (None, None, None)
    assert (second.uuid, second.index, second.name, second.ecc_errors) == (B, 1, "Simulated T4", 3)


async def test_a_value_that_nvml_does_not_report_is_none_and_no_zero(nvidia, probe):
    gpu = SimulatedGpu(A, memory_total=None, memory_used=None, utilization=None, temperature=None, ecc_errors=None)
    nvidia.set(SimulatedState(gpus=(gpu,), cuda=None, fail=(("nvmlDeviceGetName", 999, 0),)))
    inventory = await probe.read()
    (device,) = inventory.devices
    assert inventory.cuda_version is None
    assert device.fault is None
    assert {device.memory_total, device.memory_used, device.utilization, device.temperature} == {None}
    assert (device.name, device.ecc_errors) == (None, None)


async def test_mig_instances_are_devices_of_their_own(nvidia, probe):
    instances = (SimulatedMigInstance("MIG-1"), SimulatedMigInstance("MIG-2", memory_total=20 * GIB, memory_used=GIB))
    nvidia.set(
        SimulatedState(
            gpus=(SimulatedGpu(A, mig_enabled=True, mig_instances=instances), SimulatedGpu(B, mig_enabled=False))
        )
    )
    whole, one, two, other = (await probe.read()).devices
    assert (whole.uuid, whole.mig_enabled, whole.grantable) == (A, True, False)
    assert (one.uuid, one.parent_uuid, one.index, one.mig_index, one.label) == ("MIG-1", A, 0, 0, "GPU 0 MIG 0")
    assert (two.uuid, two.memory_total, two.memory_used, two.mig_index) == ("MIG-2", 20 * GIB, GIB, 1)
    assert one.grantable
    assert (other.uuid, other.mig_enabled, other.grantable) == (B, False, True)


async def test_a_host_without_gpus_has_an_empty_inventory_and_no_fault(nvidia, probe):
    inventory = await probe.read()
    assert (inventory.devices, inventory.fault) == ((), None)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4, FaultKind.NO_PERMISSION),
        (9, FaultKind.DRIVER_NOT_LOADED),
        (12, FaultKind.LIBRARY_MISSING),
        (15, FaultKind.GPU_LOST),
        (16, FaultKind.GPU_LOST),
        (18, FaultKind.VERSION_MISMATCH),
        (17, FaultKind.UNKNOWN),
        (999, FaultKind.UNKNOWN),
        (4711, FaultKind.UNKNOWN),
    ],
)
async def test_each_error_of_nvml_has_its_kind(nvidia, probe, code, kind):
    nvidia.set(SimulatedState(fail=(("nvmlInitWithFlags", code, -1),)))
    inventory = await probe.read()
    assert inventory.devices == ()
    assert (inventory.fault.kind, inventory.fault.code) == (kind, code)
    assert inventory.fault.message


async def test_a_missing_library_is_reported_as_such(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").touch()  # hides the library of a host that has one
    inventory = await NvmlProbe(environment={"LD_LIBRARY_PATH": str(tmp_path)}).read()
    assert inventory.fault.kind is FaultKind.LIBRARY_MISSING


async def test_a_missing_binding_is_reported_as_such(tmp_path):
    (tmp_path / "pynvml.py").write_text("raise ImportError('not installed')")
    inventory = await NvmlProbe(environment={"PYTHONPATH": str(tmp_path)}).read()
    assert inventory.fault.kind is FaultKind.BINDING_MISSING


async def test_one_lost_gpu_leaves_the_others_in_the_inventory(nvidia, probe):
    gpus = (SimulatedGpu(A), SimulatedGpu(B))
    nvidia.set(SimulatedState(gpus=gpus, fail=(("nvmlDeviceGetHandleByIndex_v2", 15, 0),)))
    inventory = await probe.read()
    assert [device.uuid for device in inventory.devices] == [B]
    assert inventory.unidentified[0].kind is FaultKind.GPU_LOST


async def test_a_gpu_that_is_lost_between_two_queries_carries_its_fault(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), fail=(("nvmlDeviceGetMemoryInfo", 15, 0),)))
    (device,) = (await probe.read()).devices
    assert (device.fault.kind, device.memory_used, device.grantable) == (FaultKind.GPU_LOST, None, False)


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo"])
async def test_a_hang_is_a_fault_within_the_bound_and_the_child_is_killed(nvidia, function):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), hang=(function,)))
    probe = NvmlProbe(bound=2.0, environment=nvidia.environment)
    started_at = time.monotonic()
    inventory = await probe.read()
    assert time.monotonic() - started_at < 2.5
    assert inventory.fault.kind is FaultKind.HANG
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),)))
    assert [device.uuid for device in (await probe.read()).devices] == [A]


async def test_a_crash_of_the_library_is_a_fault_that_names_the_signal(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), crash=("nvmlDeviceGetUtilizationRates",)))
    inventory = await probe.read()
    assert inventory.fault.kind is FaultKind.CRASH
    assert "SIGSEGV" in inventory.fault.message


async def test_a_hang_stalls_nothing_else_on_the_event_loop(nvidia):
    nvidia.set(SimulatedState(hang=("nvmlInitWithFlags",)))
    probe = asyncio.create_task(NvmlProbe(bound=1.0, environment=nvidia.environment).read())
    longest = 0.0
    while not probe.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    assert longest < 0.5


async def test_concurrent_callers_share_one_probe(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),)))
    answers = await asyncio.gather(*(probe.read() for _ in range(50)))
    assert len({id(answer) for answer in answers}) == 1


async def test_a_cancelled_caller_does_not_cancel_the_shared_probe(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),)))
    impatient, patient = asyncio.create_task(probe.read()), asyncio.create_task(probe.read())
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).find(A) is not None


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('no json')", "exit code 0"),
        ("import sys; sys.exit('went wrong')", "went wrong"),
        ("print('{}'); print('[1]')", "exit code 0"),
    ],
)
async def test_a_child_that_prints_no_answer_is_a_crash(program, message):
    import sys

    inventory = await NvmlProbe(command=(sys.executable, "-c", program)).read()
    assert inventory.fault.kind is FaultKind.CRASH
    assert message in inventory.fault.message


async def test_output_of_the_library_does_not_spoil_the_answer():
    import sys

    program = "print('NVRM: noise', end=''); print(); print('{\"devices\": [], \"fault\": null}')"
    inventory = await NvmlProbe(command=(sys.executable, "-c", program)).read()
    assert inventory.fault is None


async def test_a_child_that_cannot_be_started_is_a_fault():
    inventory = await NvmlProbe(command=("/nonexistent/python",)).read()
    assert inventory.fault.kind is FaultKind.CRASH
