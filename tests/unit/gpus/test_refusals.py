"""What an engine says that refuses a container with GPUs: the code, and a sentence with the next step."""

import pytest

from orchestrator.gpus.device_requests import EngineGpus
from orchestrator.gpus.refusals import judge_engine, judge_refusal, worst

RUNC = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
)
HOOK = (
    RUNC + "unable to start container process: error during container init: error running prestart hook #0: "
    "exit status 1, stdout: , stderr: "
)
LEGACY = HOOK + "Auto-detected mode as 'legacy'\nnvidia-container-cli: "

# name, what the engine says, code, phrases of the sentence, whether another way is worth a try
REFUSALS = [
    (
        "the hook in mode cdi",
        HOOK + "Using requested mode 'cdi'\ninvoking the NVIDIA Container Runtime Hook directly (e.g. specifying the "
        "docker --gpus flag) is not supported. Please use the NVIDIA Container Runtime instead.: unknown",
        "GPU_RUNTIME_MISSING",
        ["mode", "nvidia-ctk runtime configure", "CDI", "is not supported"],
        True,
    ),
    (
        "the hook on a Jetson",
        HOOK + "Auto-detected mode as 'csv'\ninvoking the NVIDIA Container Runtime Hook directly is not supported",
        "GPU_RUNTIME_MISSING",
        ["`csv`", "runtime"],
        True,
    ),
    (
        "the variable is for privileged containers",
        HOOK + "insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar: unknown",
        "GPU_RUNTIME_MISSING",
        ["accept-nvidia-visible-devices-envvar-when-unprivileged", "CDI"],
        True,
    ),
    (
        "half an upgrade",
        LEGACY + "initialization error: nvml error: driver/library version mismatch: unknown",
        "GPU_DRIVER_ERROR",
        ["half done", "Reboot"],
        False,
    ),
    (
        "a slow driver",
        LEGACY + "initialization error: driver rpc error: timed out: unknown.",
        "GPU_DRIVER_ERROR",
        ["persistence mode", "nvidia-smi -pm 1"],
        False,
    ),
    (
        "another error of the driver",
        LEGACY + "initialization error: nvml error: unknown error: unknown",
        "GPU_DRIVER_ERROR",
        ["nvml error: unknown error", "NVRM"],
        False,
    ),
    (
        "CUDA fails in the toolkit",
        LEGACY + "initialization error: cuda error: unspecified launch failure",
        "GPU_DRIVER_ERROR",
        ["cuda error"],
        False,
    ),
    (
        "an image for a newer driver",
        LEGACY + "requirement error: unsatisfied condition: cuda>=12.6, please update your driver to a newer version, "
        "or use an earlier cuda container: unknown",
        "GPU_DRIVER_ERROR",
        ["cuda>=12.6", "Update that driver"],
        False,
    ),
    (
        "an image for a newer driver, by its number",
        LEGACY + "requirement error: unsatisfied condition: driver>=550",
        "GPU_DRIVER_ERROR",
        ["driver>=550", "Update that driver"],
        False,
    ),
    (
        "an image for another kind of GPU",
        LEGACY + "requirement error: unsatisfied condition: brand = tesla",
        "GPU_NOT_FOUND",
        ["brand = tesla", "another image"],
        False,
    ),
    (
        "rootless, cgroup v2",
        LEGACY + "mount error: failed to add device rules: unable to find any existing device filters attached to the "
        "cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted: unknown",
        "GPU_RUNTIME_MISSING",
        ["no-cgroups = true", "rootless"],
        True,
    ),
    (
        "rootless, cgroup v1",
        LEGACY
        + "mount error: open failed: /sys/fs/cgroup/devices/user.slice/devices.allow: permission denied: unknown",
        "GPU_RUNTIME_MISSING",
        ["no-cgroups = true"],
        True,
    ),
    (
        "a toolkit from before cgroup v2",
        LEGACY + "container error: cgroup subsystem devices not found: unknown",
        "GPU_RUNTIME_MISSING",
        ["too old for cgroup v2", "Update"],
        True,
    ),
    (
        "a GPU that is not there any more",
        LEGACY + "device error: GPU-5c1b: unknown device: unknown",
        "GPU_LOST",
        ["GPU-5c1b: unknown device", "another machine", "nvidia-smi -L"],
        False,
    ),
    ("a lost GPU", LEGACY + "detection error: nvml error: gpu is lost", "GPU_LOST", ["Reset it"], False),
    (
        "no permission",
        LEGACY + "initialization error: nvml error: insufficient permissions: unknown",
        "GPU_DRIVER_ERROR",
        ["/dev/nvidia*", "group video"],
        False,
    ),
    (
        "WSL2 with an old Windows driver",
        LEGACY + "initialization error: nvml error: gpu access blocked by the operating system",
        "GPU_DRIVER_ERROR",
        ["WSL2", "update the Windows driver"],
        False,
    ),
    (
        "WSL2 without a GPU",
        LEGACY + "initialization error: WSL environment detected but no adapters were found",
        "GPU_NOT_FOUND",
        ["Use a host with a GPU"],
        False,
    ),
    (
        "no ldconfig where the toolkit looks",
        LEGACY + "ldcache error: open failed: /sbin/ldconfig.real: no such file or directory: unknown",
        "GPU_RUNTIME_MISSING",
        ["@/sbin/ldconfig", "config.toml"],
        True,
    ),
    (
        "the driver is not loaded",
        LEGACY + "initialization error: nvml error: driver not loaded: unknown",
        "GPU_DRIVER_ERROR",
        ["modprobe nvidia"],
        False,
    ),
    (
        "no driver",
        LEGACY + "initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no "
        "such file or directory: unknown",
        "GPU_DRIVER_ERROR",
        ["Install the NVIDIA driver"],
        False,
    ),
    (
        "an image with files of a driver",
        LEGACY + "mount error: file creation failed: /var/lib/docker/overlay2/5f0c/merged/usr/lib/x86_64-linux-gnu/"
        "libnvidia-ml.so.1: file exists: unknown",
        "GPU_RUNTIME_MISSING",
        ["Remove them from the image", "…/usr/lib"],
        True,
    ),
    (
        "the toolkit without its command",
        HOOK + 'exec: "nvidia-container-cli": executable file not found in $PATH',
        "GPU_RUNTIME_MISSING",
        ["Install the NVIDIA container toolkit"],
        True,
    ),
    (
        "the hook was removed under a running engine",
        RUNC + "error running hook #0: fork/exec /usr/bin/nvidia-container-runtime-hook: no such file or directory",
        "GPU_RUNTIME_MISSING",
        ["Install the NVIDIA container toolkit"],
        True,
    ),
    (
        "no toolkit",
        'could not select device driver "nvidia" with capabilities: [[gpu compute utility]]',
        "GPU_RUNTIME_MISSING",
        ["Install the NVIDIA container toolkit", "restart the engine"],
        True,
    ),
    (
        "CDI is off",
        'could not select device driver "cdi" with capabilities: []',
        "GPU_RUNTIME_MISSING",
        ["features.cdi"],
        True,
    ),
    (
        "no such runtime, Docker 20.10",
        "Unknown runtime specified nvidia",
        "GPU_RUNTIME_MISSING",
        ["nvidia-ctk runtime configure"],
        True,
    ),
    (
        "no such runtime, later",
        "unknown or invalid runtime name: nvidia",
        "GPU_RUNTIME_MISSING",
        ["nvidia-ctk runtime configure"],
        True,
    ),
    (
        "a runtime that was removed",
        'failed to create task: exec: "nvidia-container-runtime": executable file not found in $PATH',
        "GPU_RUNTIME_MISSING",
        ["knows no runtime"],
        True,
    ),
    (
        "a spec of the driver before, runc",
        RUNC
        + 'unable to start container process: error during container init: error mounting "/usr/lib/x86_64-linux-gnu'
        '/libcuda.so.535.161.07" to rootfs at "/usr/lib/x86_64-linux-gnu/libcuda.so.535.161.07": stat: no such file or '
        "directory: unknown",
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec of the driver before, crun",
        (
            "crun: cannot stat `/usr/lib64/libnvidia-ml.so.550.54.15`: No such file or directory: OCI runtime "
            "attempted to invoke a command that was not found"
        ),
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a node of the spec is missing",
        (
            'CDI device injection failed: failed to inject devices: failed to stat CDI host device "/dev/nvidia-uvm": '
            "no such file or directory"
        ),
        "GPU_RUNTIME_MISSING",
        ["/dev/nvidia-uvm", "nvidia-modprobe"],
        True,
    ),
    (
        "the hook of the spec is missing",
        RUNC + "error running createContainer hook #0: fork/exec /usr/bin/nvidia-cdi-hook: no such file or directory",
        "GPU_RUNTIME_MISSING",
        ["nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a name that the spec does not have, Docker",
        "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1",
        "GPU_RUNTIME_MISSING",
        ["nvidia.com/gpu=GPU-1", "--device-name-strategy=uuid"],
        True,
    ),
    (
        "a name that the spec does not have, Podman",
        "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=GPU-1",
        "GPU_RUNTIME_MISSING",
        ["nvidia.com/gpu=GPU-1", "--device-name-strategy=uuid"],
        True,
    ),
    (
        "a spec that is no spec",
        'CDI device injection failed: failed to load CDI Spec "/etc/cdi/nvidia.yaml": invalid cdiVersion',
        "GPU_RUNTIME_MISSING",
        ["cannot be read", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "CDI in Docker 29 without a spec",
        "failed to discover GPU vendor from CDI: no known GPU vendor found",
        "GPU_RUNTIME_MISSING",
        ["Install the NVIDIA container toolkit"],
        True,
    ),
    (
        "a runtime that makes its own spec, and cannot",
        (
            "failed to create task for container: failed to create shim task: OCI runtime create failed: could not "
            "apply required modification to OCI specification: error modifying OCI spec: failed to inject CDI devices: "
            "unresolvable CDI devices runtime.nvidia.com/gpu=GPU-1: unknown"
        ),
        "GPU_RUNTIME_MISSING",
        ["could not make a CDI spec", "nvidia-ctk cdi generate", "runtime.nvidia.com/gpu=GPU-1"],
        True,
    ),
    (
        "a render node of the spec is missing",
        (
            'setting up CDI devices: failed to inject devices: failed to stat CDI host device "/dev/dri/renderD129": '
            "no such file or directory"
        ),
        "GPU_RUNTIME_MISSING",
        ["/dev/dri/renderD129", "generate the spec anew"],
        True,
    ),
    (
        "a kernel that the toolkit does not know",
        LEGACY + "mount error: failed to add device rules: unable to generate new device filter program from existing "
        "programs: unable to create new device filters program: load program: invalid argument: 0: (69) r2",
        "GPU_RUNTIME_MISSING",
        ["Update the toolkit"],
        True,
    ),
    (
        "an old engine, which shows the command",
        (
            'OCI runtime create failed: container_linux.go:345: starting container process caused "init caused '
            r'\\"running prestart hook 1 caused \\\\\\"error running hook: exit status 1, stdout: , stderr: exec '
            "command: [/usr/bin/nvidia-container-cli --load-kmods configure --ldconfig=@/sbin/ldconfig.real "
            "--require=cuda>=10.1 "
            r"--pid=63334 /var/lib/docker/overlay2/370d/merged]\\\\\\\\nnvidia-container-cli: initialization error: "
            r'driver error: failed to process request\\\\\\\\n\\\\\\"\\"": unknown.'
        ),
        "GPU_DRIVER_ERROR",
        ["driver error: failed to process request)"],
        False,
    ),
    (
        "a driver library without a name",
        LEGACY + "initialization error: cannot open shared object file: no such file or directory: unknown",
        "GPU_DRIVER_ERROR",
        ["Install the NVIDIA driver"],
        False,
    ),
    (
        "cgroup v2, in the words of a later toolkit",
        LEGACY + "container error: failed to get device cgroup mount path: no cgroup filesystem mounted for the "
        "devices subsystem in mountinfo file: unknown",
        "GPU_RUNTIME_MISSING",
        ["too old for cgroup v2", "Update"],
        True,
    ),
    (
        "a spec of the driver before, of its graphics libraries, crun",
        (
            "crun: cannot stat `/usr/lib64/libEGL_nvidia.so.565.77`: No such file or directory: OCI runtime "
            "attempted to invoke a command that was not found"
        ),
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec of the driver before, of its video library",
        RUNC + 'unable to start container process: error during container init: error mounting "/usr/lib/x86_64-linux-'
        'gnu/libnvcuvid.so.535.54.03" to rootfs at "/usr/lib/x86_64-linux-gnu/libnvcuvid.so.535.54.03": mount src: no '
        "such file or directory: unknown",
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec of the driver before, of its firmware",
        RUNC + 'error mounting "/lib/firmware/nvidia/535.54.03/gsp_ga10x.bin" to rootfs at "/lib/firmware": no such '
        "file or directory",
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec with the socket of a daemon that does not run",
        RUNC + 'error mounting "/run/nvidia-persistenced/socket" to rootfs at "/run/nvidia-persistenced/socket": no '
        "such file or directory",
        "GPU_RUNTIME_MISSING",
        ["names files that are not there", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec of the driver before, on NixOS",
        RUNC + 'error mounting "/nix/store/5c1b-nvidia-x11-560.35/lib/libGLX_nvidia.so.0" to rootfs at "/x": no such '
        "file or directory",
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec of the driver before, in words of other versions of runc",
        RUNC + "unable to start container process: error during container init: failed to fulfil mount request: open "
        "/usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.0: no such file or directory: unknown",
        "GPU_RUNTIME_MISSING",
        ["another version of the driver", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "a spec of another toolkit",
        RUNC + "error running createContainer hook #1: exit status 3, stdout: , stderr: No help topic for "
        "'disable-device-node-modification': unknown",
        "GPU_RUNTIME_MISSING",
        ["another version of the NVIDIA container toolkit", "nvidia-ctk cdi generate"],
        True,
    ),
    (
        "two specs",
        (
            'CDI device injection failed: conflicting device "nvidia.com/gpu=0" (specs "/etc/cdi/nvidia.yaml", '
            '"/var/run/cdi/nvidia.yaml")'
        ),
        "GPU_RUNTIME_MISSING",
        ["two of its CDI specs", "Remove one", "/var/run/cdi/nvidia.yaml"],
        True,
    ),
    (
        "a name of CDI that Podman takes for a path",
        "stat nvidia.com/gpu=GPU-1: no such file or directory",
        "GPU_RUNTIME_MISSING",
        ["no device of that name", "nvidia-ctk cdi generate"],
        True,
    ),
    *(
        (
            f"a runtime that asks the driver itself, which says {said}",
            (
                "OCI runtime create failed: could not apply required modification to OCI specification: error "
                f"modifying OCI spec: failed to generate automatic CDI spec for nvidia.com/gpu=GPU-1: {said}: unknown"
            ),
            code,
            phrases,
            other_way,
        )
        for said, code, phrases, other_way in (
            ("failed to initialize NVML: ERROR_DRIVER_NOT_LOADED", "GPU_DRIVER_ERROR", ["modprobe nvidia"], False),
            ("failed to initialize NVML: ERROR_LIB_RM_VERSION_MISMATCH", "GPU_DRIVER_ERROR", ["half done"], False),
            ("failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND", "GPU_DRIVER_ERROR", ["Install the NVIDIA d"], False),
            ("failed to initialize NVML: ERROR_NO_PERMISSION", "GPU_DRIVER_ERROR", ["/dev/nvidia*"], False),
            ("failed to initialize NVML: Unknown Error", "GPU_DRIVER_ERROR", ["Unknown Error", "NVRM"], False),
            ("failed to get GPU device handle: ERROR_GPU_IS_LOST", "GPU_LOST", ["Reset it"], False),
            ("failed to get device handle from UUID: ERROR_NOT_FOUND", "GPU_LOST", ["nvidia-smi -L"], False),
        )
    ),
    (
        "GPUs that wait for their fabric",
        LEGACY + "detection error: nvml error: system not in ready state: unknown",
        "GPU_DRIVER_ERROR",
        ["nvidia-fabricmanager"],
        False,
    ),
    *(
        (
            f"a confined toolkit: {said}",
            HOOK + said,
            "GPU_RUNTIME_MISSING",
            ["snap", "AppArmor", "SELinux"],
            True,
        )
        for said in (
            "fork/exec /usr/bin/nvidia-container-runtime-hook: permission denied",
            "nvidia-container-cli: initialization error: open failed: /proc/sys/kernel/overflowuid: permission denied",
        )
    ),
    (
        "words that nobody has heard yet",
        LEGACY + "moon phase error: waning gibbous: unknown",
        "GPU_RUNTIME_MISSING",
        ["moon phase error: waning gibbous", "by hand"],
        True,
    ),
    (
        "a hook that says nothing",
        HOOK + ": unknown",
        "GPU_RUNTIME_MISSING",
        ["refuses the GPU", "by hand"],
        True,
    ),
]


@pytest.mark.parametrize(
    ("said", "code", "phrases", "other_way"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_every_refusal_has_its_code_and_its_next_step(said, code, phrases, other_way):
    refusal = judge_refusal(said)
    sentence = refusal.problem.sentence
    assert refusal.problem.code == code
    assert [phrase for phrase in phrases if phrase not in sentence] == [], sentence
    assert refusal.other_way == other_way
    assert sentence.endswith("then restart the plugin.")
    assert "\n" not in sentence
    assert "overlay2" not in sentence


def test_only_where_it_is_missing_the_toolkit_is_to_be_installed():
    """What comes from the toolkit itself shows that it is installed."""
    advised = [name for name, said, *_ in REFUSALS if "Install the NVIDIA container toolkit" in _sentence(said)]
    assert advised == [
        "the toolkit without its command",
        "the hook was removed under a running engine",
        "no toolkit",
        "CDI in Docker 29 without a spec",
    ]


@pytest.mark.parametrize(
    "said",
    [
        'invalid mount config for type "bind": bind source path does not exist: /srv/models/nvidia-nemo',
        "No such image: nvidia/cuda:12.4.1-runtime-ubuntu22.04",
        'Conflict. The container name "/plugin-gpu-echo-1a2b3c4d" is already in use',
        'exec: "python": executable file not found in $PATH',
        "no space left on device",
        'error mounting "/var/lib/plugins/models/nvidia/nemo" to rootfs at "/models/nemo": no such file or directory',
        'error mounting "/srv/usr/lib/nvidia" to rootfs at "/models/nemo": no such file or directory',
        (
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to apply cgroup "
            "configuration: permission denied"
        ),
        "driver failed programming external connectivity on endpoint plugin-gpu-echo",
        "error while creating mount source path '/srv/gpu/unknown device': mkdir /srv: read-only file system",
    ],
)
def test_what_has_nothing_to_do_with_gpus_is_not_taken_for_it(said):
    assert judge_refusal(said) is None


def test_long_words_are_shortened():
    sentence = _sentence("nvidia-container-cli: " + "error " * 400)
    assert len(sentence) < 600
    assert "…" in sentence


def test_of_several_ways_the_refusal_counts_of_one_that_is_set_up():
    absent, stale = judge_refusal(REFUSALS[24][1]), judge_refusal("unresolvable CDI devices nvidia.com/gpu=GPU-1")
    assert absent.absent
    assert worst([absent, stale]) is stale.problem
    assert worst([stale, absent]) is stale.problem
    assert worst([absent]) is absent.problem


@pytest.mark.parametrize(
    ("drivers", "forced", "named"),
    [
        (("nvidia",), None, None),
        (("cdi",), None, None),
        ((), None, None),  # may still serve it: only a start shows
        ((), "nvidia", None),
        (("cdi",), "cdi", None),
        (("nvidia",), "runtime", None),
        (("nvidia",), "cdi", "CDI"),
        (("cdi",), "runtime", "runtime `nvidia`"),
    ],
)
def test_only_an_engine_that_lacks_what_the_settings_force_has_a_problem_before_a_try(drivers, forced, named):
    problem = judge_engine(EngineGpus(drivers), forced)
    assert (problem is None) == (named is None)
    if problem:
        assert problem.code == "GPU_RUNTIME_MISSING"
        assert named in problem.sentence
        assert "ORCHESTRATOR_GPU_DRIVER" in problem.sentence


@pytest.mark.parametrize(
    ("drivers", "forced", "refused"),
    [(("cdi",), None, False), (("cdi",), "cdi", False), ((), None, True), (("cdi",), "nvidia", True)],
)
def test_podman_hands_out_gpus_by_cdi_alone(drivers, forced, refused):
    """It ignores other requests, and the plugin would start without its GPU."""
    problem = judge_engine(EngineGpus(drivers, only_cdi=True), forced)
    assert (problem is not None) == refused
    if problem:
        assert problem.code == "GPU_RUNTIME_MISSING"
        assert "Podman 5.4" in problem.sentence


def _sentence(said: str) -> str:
    return judge_refusal(said).problem.sentence
