"""Which of the many kinds of "GPU not available" it is: a table of evidence, then checks of a simulated host."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from simulated_nvidia.host import SimulatedGpu, SimulatedState

from orchestrator.gpus.evidence import HardwareHints, SmiResult, read_hardware_hints
from orchestrator.gpus.host_check import HostEvidence, judge_host, judge_running
from orchestrator.gpus.inventory import FaultKind, GpuDevice, GpuFault, GpuInventory
from orchestrator.gpus.probe import ChildResult, parse_smi
from orchestrator.lifecycle import ReasonCode

A, B = "GPU-aaaa", "GPU-bbbb"
GOOD = GpuDevice(A, 0)
LOST = GpuFault(FaultKind.GPU_LOST, "GPU is lost", 15)
FAULTY = GpuDevice(B, 1, fault=LOST, last_xid=79)

NOTHING = HardwareHints(pci_gpus=0)
ON_THE_BUS = HardwareHints(pci_gpus=2)
LOADED = HardwareHints(pci_gpus=2, module_version="535.129.03", device_nodes=2)
JETSON = HardwareHints(tegra="NVIDIA Orin Nano Developer Kit, L4T 35.4.1")
NO_SMI = SmiResult("missing")
WORKS = SmiResult("works", "GPU 0: A100")


def probed(*devices, fault=None, **more):
    return GpuInventory(devices, datetime.now(UTC), time.monotonic(), fault=fault, **more)


def fault(kind, message="", code=None):
    return probed(fault=GpuFault(kind, message, code))


CASES = [
    # NVML's answer, the kernel's files, the result of nvidia-smi → code, words in the sentence
    (probed(GOOD), LOADED, WORKS, None, ()),
    (probed(GOOD), LOADED, None, None, ()),
    (probed(GOOD), LOADED, NO_SMI, None, ()),
    (probed(GOOD, FAULTY), LOADED, WORKS, None, ()),
    (probed(GOOD, unidentified={1: LOST}), LOADED, WORKS, None, ()),
    (probed(GOOD), HardwareHints(), WORKS, None, ()),
    # no hardware
    (fault(FaultKind.LIBRARY_MISSING), NOTHING, NO_SMI, "GPU_NOT_FOUND", ("no NVIDIA GPU", "host with a GPU")),
    (fault(FaultKind.LIBRARY_MISSING), HardwareHints(), NO_SMI, "GPU_NOT_FOUND", ("no NVIDIA GPU",)),
    (fault(FaultKind.LIBRARY_MISSING), NOTHING, None, "GPU_NOT_FOUND", ("no NVIDIA GPU",)),
    (fault(FaultKind.BINDING_MISSING), NOTHING, NO_SMI, "GPU_NOT_FOUND", ("no NVIDIA GPU",)),
    (probed(), NOTHING, WORKS, "GPU_NOT_FOUND", ("no NVIDIA GPU", "counts no GPU")),
    # a GPU that is on no bus, and that NVML knows from JetPack 6 on
    *(
        (
            found,
            hints,
            NO_SMI,
            "GPU_DRIVER_ERROR",
            ("Orin Nano", "L4T 35.4.1", words, "without `requires_gpu`", "JetPack"),
        )
        for found, words in (
            (fault(FaultKind.LIBRARY_MISSING), "libnvidia-ml.so.1"),
            (fault(FaultKind.DRIVER_NOT_LOADED), "does not find its driver"),
            (probed(), "counts none"),
        )
        for hints in (JETSON, replace(JETSON, pci_gpus=0))
    ),
    (fault(FaultKind.LIBRARY_MISSING), JETSON, WORKS, "GPU_DRIVER_ERROR", ("nvidia-smi works", "ldconfig")),
    (probed(replace(GOOD, system_memory_total=8 << 30)), JETSON, NO_SMI, None, ()),
    # hardware, and no driver or half of one
    (
        fault(FaultKind.LIBRARY_MISSING),
        ON_THE_BUS,
        NO_SMI,
        "GPU_DRIVER_ERROR",
        ("2 NVIDIA GPUs", "Install the NVIDIA driver"),
    ),
    (fault(FaultKind.LIBRARY_MISSING), NOTHING, WORKS, "GPU_DRIVER_ERROR", ("nvidia-smi works", "ldconfig")),
    (fault(FaultKind.LIBRARY_MISSING), NOTHING, SmiResult("fails", "no"), "GPU_DRIVER_ERROR", ("Reinstall",)),
    (fault(FaultKind.BINDING_MISSING), LOADED, WORKS, "GPU_DRIVER_ERROR", ("nvidia-ml-py", "Install it")),
    # errors for which there is another step than a reboot
    *(
        (found, LOADED, WORKS, "GPU_DRIVER_ERROR", (words, f"NVML error {number}", step))
        for number, words, step in (
            (8, "Insufficient External Power", "power cables"),
            (10, "Timeout", "persistence mode"),
            (17, "GPU access blocked by the operating system", "Windows driver"),
            (19, "In use by another client", "uses it alone"),
            (27, "System is not in ready state", "nvidia-fabricmanager"),
            (20, "Insufficient Memory", "NVRM"),
        )
        for found in (
            fault(FaultKind.UNKNOWN, words, number),
            probed(unidentified={0: GpuFault(FaultKind.UNKNOWN, words, number)}),
        )
    ),
    (probed(driver_version="535.1"), ON_THE_BUS, WORKS, "GPU_DRIVER_ERROR", ("none of the 2", "vfio-pci", "535.1")),
    # faults of the driver
    (fault(FaultKind.DRIVER_NOT_LOADED), ON_THE_BUS, None, "GPU_DRIVER_ERROR", ("not loaded", "modprobe nvidia")),
    (
        fault(FaultKind.DRIVER_NOT_LOADED),
        NOTHING,
        None,
        "GPU_DRIVER_ERROR",
        ("not loaded", "no NVIDIA device is on the PCI"),
    ),
    (
        probed(fault=GpuFault(FaultKind.VERSION_MISMATCH), library_version="550.54.15"),
        LOADED,
        SmiResult("fails", "Driver/library version mismatch"),
        "GPU_DRIVER_ERROR",
        ("535.129.03", "550.54.15", "Reboot"),
    ),
    (fault(FaultKind.VERSION_MISMATCH), HardwareHints(), None, "GPU_DRIVER_ERROR", ("of one version", "of another")),
    (fault(FaultKind.NO_PERMISSION), LOADED, None, "GPU_DRIVER_ERROR", ("may not use", "/dev/nvidia")),
    (
        fault(FaultKind.UNKNOWN, "Unknown Error", 999),
        LOADED,
        None,
        "GPU_DRIVER_ERROR",
        ("Unknown Error", "999", "reboot"),
    ),
    (fault(FaultKind.HANG, "no answer within 5 s"), LOADED, SmiResult("hangs"), "GPU_DRIVER_ERROR", ("hangs", "5 s")),
    (fault(FaultKind.CRASH, "died of SIGSEGV"), LOADED, None, "GPU_DRIVER_ERROR", ("SIGSEGV", "Reinstall")),
    # the second opinion
    (probed(GOOD), LOADED, SmiResult("hangs"), "GPU_DRIVER_ERROR", ("nvidia-smi does not answer",)),
    (
        probed(GOOD),
        LOADED,
        SmiResult("fails", "Unknown Error"),
        "GPU_DRIVER_ERROR",
        ("nvidia-smi fails", "Unknown Error"),
    ),
    # lost
    (fault(FaultKind.GPU_LOST, "GPU is lost"), LOADED, None, "GPU_LOST", ("GPU is lost", "nvidia-smi -r", "reboot")),
    (probed(FAULTY), LOADED, WORKS, "GPU_LOST", ("GPU is lost",)),
    (probed(unidentified={0: LOST}), LOADED, WORKS, "GPU_LOST", ("GPU is lost",)),
]


@pytest.mark.parametrize(("inventory", "hints", "smi", "code", "named"), CASES)
def test_the_evidence_decides_which_fault_it_is(inventory, hints, smi, code, named):
    problem = judge_host(HostEvidence(inventory, hints, smi))
    if code is None:
        assert problem is None
        return
    assert problem.code == ReasonCode(code)
    for words in named:
        assert words in problem.sentence


@pytest.mark.parametrize(("inventory", "hints", "smi", "code", "named"), [case for case in CASES if case[3]])
def test_every_sentence_is_complete_and_says_what_to_do(inventory, hints, smi, code, named):
    sentence = judge_host(HostEvidence(inventory, hints, smi)).sentence
    assert sentence.endswith("then restart the plugin.")
    assert sentence[0].isupper()
    assert "  " not in sentence
    assert "None" not in sentence


@pytest.mark.parametrize(("inventory", "hints", "smi", "code", "named"), [case for case in CASES if case[3]])
def test_the_report_on_the_host_speaks_of_no_plugin(inventory, hints, smi, code, named):
    """There may be none that wants a GPU."""
    problem = judge_host(HostEvidence(inventory, hints, smi))
    reason = replace(inventory, problem=problem).report()["reason"]
    assert "plugin" not in reason
    assert problem.sentence.startswith(reason.removesuffix("."))
    assert reason.endswith(".")
    assert not reason.endswith("..")


@pytest.mark.parametrize(
    ("held", "inventory", "lost"),
    [
        ((A,), probed(GOOD), False),
        ((A,), probed(GOOD, FAULTY), False),
        ((A, B), probed(GOOD, FAULTY), True),
        ((B,), probed(GOOD), True),
        ((B,), probed(GOOD, unidentified={1: LOST}), True),
        ((A,), fault(FaultKind.HANG), False),  # says nothing about one device
        ((), probed(), False),
    ],
)
def test_a_running_plugin_has_lost_a_gpu_when_a_good_probe_does_not_find_it_healthy(held, inventory, lost):
    problem = judge_running(held, inventory)
    assert (problem is not None) == lost
    if problem:
        assert problem.code is ReasonCode.GPU_LOST
        assert B in problem.sentence


def test_the_xid_of_a_lost_gpu_is_named():
    assert "Xid 79" in judge_running([B], probed(FAULTY)).sentence


# From a simulated host to the diagnosis

HOSTS = {
    "healthy": (SimulatedState(gpus=(SimulatedGpu(A),)), True, True, None),
    "no hardware": (SimulatedState(), False, False, "GPU_NOT_FOUND"),
    "not loaded": (
        SimulatedState(fail=(("nvmlInitWithFlags", 9, -1),), smi=(9, "couldn't communicate with the NVIDIA driver")),
        True,
        False,
        "GPU_DRIVER_ERROR",
    ),
    "mismatch": (
        SimulatedState(fail=(("nvmlInitWithFlags", 18, -1),), smi=(18, "Driver/library version mismatch")),
        True,
        True,
        "GPU_DRIVER_ERROR",
    ),
    "unknown": (SimulatedState(fail=(("nvmlInitWithFlags", 999, -1),)), True, True, "GPU_DRIVER_ERROR"),
    "nvml hangs": (SimulatedState(hang=("nvmlInitWithFlags",)), True, True, "GPU_DRIVER_ERROR"),
    "smi hangs": (SimulatedState(gpus=(SimulatedGpu(A),), smi="hang"), True, True, "GPU_DRIVER_ERROR"),
    "smi fails": (SimulatedState(gpus=(SimulatedGpu(A),), smi=(255, "Unknown Error")), True, True, "GPU_DRIVER_ERROR"),
    "lost": (
        SimulatedState(gpus=(SimulatedGpu(A),), fail=(("nvmlDeviceGetHandleByIndex_v2", 15, 0),)),
        True,
        True,
        "GPU_LOST",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTS)
async def test_a_whole_host_is_diagnosed_within_the_bound(nvidia, case):
    state, plugged_in, loaded, code = HOSTS[case]
    nvidia.set(state)
    if plugged_in:
        nvidia.plug_in()
    if loaded:
        nvidia.load_module()
    bound = 2.0 if "hangs" in case else 10.0  # patience with a busy machine, where nothing hangs
    host = nvidia.gpu_host(bound=bound)
    assert host.latest is None
    started_at = time.monotonic()
    inventory = await host.check()
    assert time.monotonic() - started_at < bound + 1.0
    assert (inventory.problem.code if inventory.problem else None) == code
    assert host.latest is inventory
    assert inventory.report()["reason_code"] == code


async def test_a_regular_probe_does_not_wait_for_nvidia_smi(nvidia):
    nvidia.set(SimulatedState(gpus=(SimulatedGpu(A),), smi="hang"))
    assert (await nvidia.gpu_host().read()).problem is None


# One sick GPU of many

SICK = GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999)


@pytest.mark.parametrize(
    "smi",
    [
        SmiResult("fails", "Unable to determine the device handle for GPU 0000:66:00.0: Unknown Error"),
        SmiResult("fails", "exit code 15"),
        SmiResult("hangs"),
        WORKS,
        NO_SMI,
        None,
    ],
)
@pytest.mark.parametrize("sick", [{"unidentified": {1: SICK}}, {"unidentified": {1: LOST}}, {"faulty": True}])
def test_where_nvml_names_the_sick_gpu_a_failing_nvidia_smi_is_no_news(smi, sick):
    inventory = probed(GOOD, FAULTY) if "faulty" in sick else probed(GOOD, **sick)
    assert judge_host(HostEvidence(inventory, LOADED, smi)) is None


def test_a_gpu_that_does_not_say_which_it_is_is_in_the_report_with_the_reason():
    (healthy, sick) = probed(GOOD, unidentified={1: SICK}).report()["devices"]
    assert (healthy["uuid"], healthy["healthy"]) == (A, True)
    assert (sick["uuid"], sick["index"], sick["healthy"]) == (None, 1, False)
    assert "Unknown Error" in sick["fault"]


def test_where_each_gpu_is_sick_in_its_own_way_each_is_named():
    problem = judge_host(HostEvidence(probed(FAULTY, unidentified={0: SICK}), LOADED, None))
    for words in ("GPU 0", "Unknown Error", "GPU 1", "GPU is lost", "Xid 79", "nvidia-smi -r -i 1"):
        assert words in problem.sentence


@pytest.mark.slow
async def test_one_sick_gpu_leaves_the_others_to_grant_and_keeps_its_name(nvidia):
    gpus = (SimulatedGpu(A), SimulatedGpu(B, bus="00000000:66:00.0"))
    nvidia.plug_in()
    nvidia.load_module()
    nvidia.set(SimulatedState(gpus=gpus))
    host = nvidia.gpu_host(bound=10.0)
    assert (await host.check()).problem is None
    smi = (15, "Unable to determine the device handle for gpu 0000:66:00.0: Unknown Error")
    nvidia.set(SimulatedState(gpus=gpus, fail=(("nvmlDeviceGetHandleByIndex_v2", 999, 1),), smi=smi))
    inventory = await host.check()
    assert inventory.problem is None
    assert [device.uuid for device in inventory.devices if device.grantable] == [A]
    assert (inventory.find(B).fault.message, inventory.find(B).name) == ("Unknown Error", "Simulated A100")
    nvidia.set(SimulatedState(gpus=gpus))
    assert (await host.check()).find(B).grantable


# The orchestrator's own container lost its right to the GPU

IN_CONTAINER = replace(LOADED, container=True)


@pytest.mark.parametrize(
    ("hints", "code", "recreate"),
    [
        (IN_CONTAINER, 999, True),
        (LOADED, 999, False),  # not in a container
        (replace(IN_CONTAINER, module_version=None), 999, False),
        (replace(IN_CONTAINER, device_nodes=0), 999, False),
        (IN_CONTAINER, 10, False),  # a timeout is another matter
    ],
)
def test_a_container_that_lost_its_right_to_the_gpu_is_to_be_recreated(hints, code, recreate):
    evidence = HostEvidence(fault(FaultKind.UNKNOWN, "Unknown Error", code), hints, SmiResult("fails", "Unknown Error"))
    sentence = judge_host(evidence).sentence
    assert ("lost its right to the GPU" in sentence, "ecreate" in sentence) == (recreate, recreate)
    assert ("reload the driver" in sentence) != recreate
    if recreate:
        assert "daemon-reload" in sentence


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_the_mark_of_docker_or_podman(tmp_path, mark):
    assert not read_hardware_hints(tmp_path).container
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    assert read_hardware_hints(tmp_path).container


# The kernel's files


def test_hardware_is_found_on_the_pci_bus_without_any_driver(nvidia):
    nvidia.plug_in()
    nvidia.plug_in(address="0000:66:00.0")
    nvidia.plug_in(address="0000:65:00.1", pci_class="0x040300")  # its audio function
    assert read_hardware_hints(nvidia.root) == HardwareHints(pci_gpus=2)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (
            {
                "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, BOARD: t186ref, EABI: aarch64\n",
                "proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0",
                "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
            },
            "NVIDIA Orin Nano Developer Kit, L4T 35.4.1",
        ),
        ({"proc/device-tree/compatible": "nvidia,p3509-0000\0nvidia,tegra194\0"}, "nvidia,tegra194"),
        (
            {"sys/devices/soc0/family": "Tegra\n", "sys/devices/soc0/machine": "NVIDIA Jetson AGX Orin\n"},
            "NVIDIA Jetson AGX Orin",
        ),
        ({"etc/nv_tegra_release": "# R36\n"}, "Tegra"),
        (
            {
                "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
                "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
                "sys/devices/soc0/family": "Broadcom\n",
            },
            "",
        ),
        ({}, ""),
    ],
)
def test_a_jetson_is_known_by_its_release_its_device_tree_or_its_chip(tmp_path, files, named):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    hints = read_hardware_hints(tmp_path)
    assert (hints.tegra, hints.hardware) == (named, bool(named))


def test_the_version_of_the_loaded_module_is_read(nvidia):
    nvidia.load_module("535.129.03")
    assert read_hardware_hints(nvidia.root).module_version == "535.129.03"


def test_the_open_module_writes_its_name_differently(nvidia):
    nvidia.load_module()
    (nvidia.root / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
    )
    assert read_hardware_hints(nvidia.root).module_version == "580.65.06"


def test_a_pci_bus_that_cannot_be_read_is_unknown_and_not_empty(tmp_path):
    hints = read_hardware_hints(tmp_path)
    assert (hints.pci_gpus, hints.hardware) == (None, False)


def test_device_nodes_count_only_where_they_are_gpus(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    assert read_hardware_hints(tmp_path).device_nodes == 2


def test_a_program_killed_by_a_signal_is_named_by_it():
    assert parse_smi(ChildResult("ended", -11)) == SmiResult("fails", "SIGSEGV")
