"""The real pynvml, in its child process, against a stand-in library: values, errors, hangs, crashes."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from simulated_nvidia.host import GIB, SimulatedGpu, SimulatedMigInstance, SimulatedState
from support.waiting import eventually

from orchestrator.gpus.evidence import HardwareHints
from orchestrator.gpus.host_check import HostEvidence, judge_host
from orchestrator.gpus.inventory import FaultKind, GpuFault, GpuInventory, GpuProcess
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
    started_at = time.monotonic()
    inventory = await NvmlProbe(bound=2.0, environment=nvidia.environment).read()
    assert time.monotonic() - started_at < 4.0
    probe = NvmlProbe(environment=nvidia.environment)
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


# Text that is none, bindings that are old


@pytest.mark.parametrize("text", ["\udcf8\udcff", "\udcf8Simulated"])
async def test_a_name_that_is_no_text_costs_the_name_and_nothing_else(nvidia, probe, text):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A, name=text), SimulatedGpu(B))))
    inventory = await probe.read()
    assert inventory.fault is None
    first, second = inventory.devices
    assert (first.uuid, first.name, first.memory_total, first.fault) == (A, None, 80 * GIB, None)
    assert (second.uuid, second.name) == (B, "Simulated A100")


@pytest.mark.parametrize("uuid", ["\udcf8\udcff", ""])
async def test_a_uuid_that_cannot_be_read_costs_its_gpu_and_no_other(nvidia, probe, uuid):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(uuid), SimulatedGpu(B))))
    inventory = await probe.read()
    assert [device.uuid for device in inventory.devices] == [B]
    assert inventory.unidentified[0].kind is FaultKind.UNKNOWN


async def test_the_drivers_version_that_is_no_text_costs_no_gpu(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), driver="\udcff"))
    inventory = await probe.read()
    assert (inventory.fault, inventory.driver_version) == (None, None)
    assert [device.uuid for device in inventory.devices] == [A]


OLD_BINDING = """
class NVMLError(Exception):
    value = 3
class Handle: pass
def nvmlInit(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return b"GPU-%d" % handle
def nvmlDeviceGetName(handle): return [b"Tesla \\xf8", b"Tesla T4"][handle]
def nvmlSystemGetDriverVersion(): return b"470.1"
def nvmlDeviceGetMemoryInfo(handle):
    memory = Handle(); memory.total, memory.used = 100, 10; return memory
def nvmlDeviceGetComputeRunningProcesses(handle):
    process = Handle(); process.pid, process.usedGpuMemory = 7, 5; return [process]
"""


async def test_an_old_binding_that_gives_bytes_and_lacks_functions_is_read_and_named(tmp_path):
    (tmp_path / "pynvml.py").write_text(OLD_BINDING)
    inventory = await NvmlProbe(environment={"PYTHONPATH": str(tmp_path)}).read()
    assert inventory.fault is None
    assert [(device.uuid, device.name) for device in inventory.devices] == [
        ("GPU-0", "Tesla \\xf8"),
        ("GPU-1", "Tesla T4"),
    ]
    assert (inventory.driver_version, inventory.cuda_version) == ("470.1", None)
    assert (inventory.devices[0].memory_used, inventory.devices[0].utilization) == (10, None)
    assert inventory.devices[0].processes == (GpuProcess(7, 5),)
    assert "pynvml" in inventory.old_binding


@pytest.mark.parametrize("program", ["raise RuntimeError('odd')", "print 'python 2'"])
async def test_a_binding_that_cannot_be_imported_for_any_reason_is_missing(tmp_path, program):
    (tmp_path / "pynvml.py").write_text(program)
    inventory = await NvmlProbe(environment={"PYTHONPATH": str(tmp_path)}).read()
    assert inventory.fault.kind is FaultKind.BINDING_MISSING


async def test_the_package_pynvml_of_old_is_named(nvidia, tmp_path):
    folder = tmp_path / "pynvml-11.5.3.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pynvml\nVersion: 11.5.3\n")
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),)))
    inventory = await NvmlProbe(environment={**nvidia.environment, "PYTHONPATH": str(tmp_path)}).read()
    assert inventory.old_binding == "the package pynvml 11.5.3"
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pynvml\nVersion: 12.0.0\n")
    inventory = await NvmlProbe(environment={**nvidia.environment, "PYTHONPATH": str(tmp_path)}).read()
    assert inventory.old_binding is None  # that one needs nvidia-ml-py, and has no module of its own


# Processes, persistence mode, memory that is the machine's


async def test_the_processes_of_a_gpu_are_listed_once_with_their_memory(nvidia, probe):
    first = SimulatedGpu(A, processes=((11, GIB), (12, None)), graphics=((11, GIB), (13, 5)), persistence=True)
    nvidia.set(SimulatedState(gpus=(first, SimulatedGpu(B, persistence=False))))
    one, two = (await probe.read()).devices
    assert set(one.processes) == {GpuProcess(11, GIB), GpuProcess(12, None), GpuProcess(13, 5)}
    assert two.processes == ()
    assert (one.persistence_mode, two.persistence_mode) == (True, False)


@pytest.mark.parametrize("code", [3, 4, 999])
async def test_processes_that_the_driver_does_not_list_are_unknown_and_not_none(nvidia, probe, code):
    failure = ("nvmlDeviceGetComputeRunningProcesses_v3", code, 0)
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A, processes=((11, GIB),)),), fail=(failure,)))
    (device,) = (await probe.read()).devices
    assert (device.processes, device.fault) == (None, None)


async def test_a_driver_before_510_lists_them_by_an_older_function(nvidia, probe):
    missing = ("nvmlDeviceGetComputeRunningProcesses_v3", 13, 0)
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A, processes=((11, GIB),)),), fail=(missing,)))
    (device,) = (await probe.read()).devices
    assert device.processes == (GpuProcess(11, GIB),)


async def test_a_gpu_without_memory_of_its_own_has_the_machines(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A, memory_total=None, memory_used=None), SimulatedGpu(B))))
    unified, own = (await probe.read()).devices
    assert unified.unified_memory
    assert unified.memory_total is None  # the driver reports none
    total, used = unified.usable_memory
    assert 0 < used < total
    assert (own.unified_memory, own.usable_memory) == (False, (80 * GIB, GIB // 2))


async def test_memory_that_could_not_be_read_is_no_memory_of_the_machine(nvidia, probe):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), fail=(("nvmlDeviceGetMemoryInfo", 999, 0),)))
    (device,) = (await probe.read()).devices
    assert (device.unified_memory, device.usable_memory) == (False, (None, None))


# A slow driver


async def test_a_slow_driver_is_waited_for_and_not_taken_for_a_hung_one(nvidia):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), slow=7))  # more than the bound of later looks
    host = nvidia.gpu_host(bound=60.0)
    looking = asyncio.create_task(host.check())

    async def waits():
        return host.waiting_seconds is not None

    await eventually(waits)
    inventory = await looking
    assert inventory.problem is None
    assert inventory.seconds > 7
    assert host.waiting_seconds is None


@pytest.mark.parametrize(("persistence", "kind"), [(True, FaultKind.HANG), (False, None), (None, None)])
async def test_only_a_driver_that_keeps_its_gpus_awake_must_answer_later_looks_soon(
    tmp_path, monkeypatch, persistence, kind
):
    monkeypatch.setattr("orchestrator.gpus.probe.PROBE_SECONDS", 1.5)
    answer, sleep = tmp_path / "answer", tmp_path / "sleep"
    answer.write_text(json.dumps({"devices": [{"uuid": A, "index": 0, "persistence_mode": persistence}]}))
    sleep.write_text("0")
    probe = NvmlProbe(bound=60.0, command=("sh", "-c", f"sleep $(cat {sleep}); cat {answer}"))
    assert (await probe.read()).fault is None
    sleep.write_text("2.5")
    fault = (await probe.read()).fault
    assert (fault.kind if fault else None) == kind
    # After an answer that did not come, the driver may have to wake them again: it is waited for.
    assert (await probe.read()).fault is None


def test_the_sentence_of_a_hang_has_the_remedies_for_a_driver_that_is_only_slow():
    inventory = GpuInventory((), datetime.now(UTC), 0.0, fault=GpuFault(FaultKind.HANG, "no answer within 60 s"))
    sentence = judge_host(HostEvidence(inventory, HardwareHints(1, "550.54.15", 1))).sentence
    for words in ("within 60 s", "nvidia-smi -pm 1", "nvidia-persistenced", "ORCHESTRATOR_GPU_FIRST_LOOK", "reboot"):
        assert words in sentence
