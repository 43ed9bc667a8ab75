"""What an engine says when it cannot hand out a GPU: which of the many causes it is, and the next step. Pure.

The words are those of Docker, Podman, runc, NVIDIA's container toolkit (its hook, its runtime, nvidia-container-cli)
and the CDI library. They are read only for a container that was to have GPUs: for others, none is about a GPU.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.gpus.device_requests import EngineGpus, Way
from orchestrator.gpus.inventory import RESTART, GpuProblem
from orchestrator.lifecycle import ReasonCode

INSTALL_TOOLKIT: Final = "Install the NVIDIA container toolkit on the engine's host and restart the engine"
CONFIGURE_RUNTIME: Final = (
    "Register its runtime (nvidia-ctk runtime configure --runtime=docker) and restart the engine, or enable CDI"
)
GENERATE_SPEC: Final = "Generate it anew on the engine's host (nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml)"
NAME_BY_UUID: Final = (
    "Generate it on the engine's host with UUIDs as names (nvidia-ctk cdi generate --device-name-strategy=uuid "
    "--output=/etc/cdi/nvidia.yaml)"
)
_MAX_WORDS: Final = 200  # characters of the engine's own text in a sentence


@dataclass(frozen=True, slots=True)
class Refusal:
    """`other_way`: requested in another way, the same GPU may be had. `absent`: this way is not set up at all, so that
    the refusal of another one says more.
    """

    problem: GpuProblem
    other_way: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class _Cause:
    pattern: str
    code: ReasonCode
    what: str
    step: str
    other_way: bool = False
    absent: bool = False


_MISSING: Final = ReasonCode.GPU_RUNTIME_MISSING
_DRIVER: Final = ReasonCode.GPU_DRIVER_ERROR

# A file of the driver on the host, at one of its places: not a plugin's model whose path has such a word.
_DRIVER_FILE: Final = (
    r"(?<![\w/.-])/(?=[^\s\"`']*(?:libcuda|libnv|nvidia))(?:(?:usr/)?(?:s?bin|lib\w*)|usr/share/(?:nvidia|glvnd|vulkan|egl"
    r"|x11)|etc/(?:vulkan|egl|opencl|nvidia)|run/(?:nvidia|opengl-driver)|nix/store)"
)

_CAUSES: Final = (
    # Docker
    _Cause(
        r'select device driver "?cdi',
        _MISSING,
        "CDI is not enabled in the engine",
        "Enable it (features.cdi in daemon.json) and restart the engine",
        other_way=True,
        absent=True,
    ),
    _Cause(
        r"select device driver|no known gpu vendor",
        _MISSING,
        "it has no driver for device requests",
        INSTALL_TOOLKIT,
        other_way=True,
        absent=True,
    ),
    _Cause(
        r"unknown (or invalid )?runtime|oci runtime \"?nvidia"
        r"|nvidia-container-runtime\b(?!-hook)[^\n]*(not found|no such file)",
        _MISSING,
        "it knows no runtime `nvidia`",
        CONFIGURE_RUNTIME,
        other_way=True,
        absent=True,
    ),
    _Cause(
        r"nvidia-container-(runtime-hook|toolkit|cli)\b[\"': ]*(executable file )?(not found|no such file)",
        _MISSING,
        "parts of the NVIDIA container toolkit are missing",
        INSTALL_TOOLKIT,
        other_way=True,
    ),
    # The hook, and nvidia-container-cli
    _Cause(
        r"invoking the nvidia container runtime hook directly",
        _MISSING,
        "the mode of its NVIDIA container toolkit (`cdi` or `csv`) has no device requests",
        CONFIGURE_RUNTIME,
        other_way=True,
    ),
    _Cause(
        r"insufficient privileges to read device list",
        _MISSING,
        "its NVIDIA container toolkit lets only privileged containers name GPUs by NVIDIA_VISIBLE_DEVICES",
        "Enable CDI in the engine, or set accept-nvidia-visible-devices-envvar-when-unprivileged = true in "
        "/etc/nvidia-container-runtime/config.toml",
        other_way=True,
    ),
    _Cause(
        r"driver/library version mismatch|lib_rm_version_mismatch",
        _DRIVER,
        "on the engine's host the driver's kernel module and library are of different versions: an upgrade is half "
        "done",
        "Reboot that host",
    ),
    _Cause(
        r"(rpc|initialization|nvml|detection) error[^\n]*(timed out|timeout)",
        _DRIVER,
        "the driver did not come up in the time that the NVIDIA container toolkit gives it",
        "Enable persistence mode on the engine's host (nvidia-smi -pm 1, or the service nvidia-persistenced)",
    ),
    _Cause(
        r"unsatisfied condition: *(cuda|driver)",
        _DRIVER,
        "the image requires a newer driver than the engine's host has",
        "Update that driver, or use an image for an older CUDA",
    ),
    _Cause(
        r"unsatisfied condition",
        ReasonCode.GPU_NOT_FOUND,
        "the image requires another kind of GPU (its NVIDIA_REQUIRE_…)",
        "Use another image, or a host with such a GPU",
    ),
    _Cause(
        r"device filters? program|load program",
        _MISSING,
        "its NVIDIA container toolkit cannot change device rules on this kernel",
        "Update the toolkit (libnvidia-container), or enable CDI in the engine",
        other_way=True,
    ),
    _Cause(
        r"bpf_prog|device filters|failed to add device rules|failed to get cgroup"
        r"|cgroup[^\n]*(permission denied|not permitted)",
        _MISSING,
        "its NVIDIA container toolkit may not change the container's cgroup, as with a rootless engine",
        "Set no-cgroups = true in the toolkit's config.toml (rootless: ~/.config/nvidia-container-runtime) or enable "
        "CDI",
        other_way=True,
    ),
    _Cause(
        r"cgroup subsystem devices not found|cgroup[^\n]*not found|no cgroup filesystem mounted",
        _MISSING,
        "its NVIDIA container toolkit is too old for cgroup v2",
        "Update the NVIDIA container toolkit",
        other_way=True,
    ),
    _Cause(
        r"unknown device|no such device|invalid device id|requested (gpu|device)[^\n]*not found"
        r"|device handle[^\n]*(not[ _]found|invalid[ _]argument)",
        ReasonCode.GPU_LOST,
        "the engine's host does not have the granted GPU: it was lost or repartitioned, or the engine is on another "
        "machine than the orchestrator",
        "Compare `nvidia-smi -L` on both and reset the GPU if it is missing",
    ),
    _Cause(
        r"gpu[ _]is[ _]lost|fallen off the bus|gpu requires reset|reset[ _]required",
        ReasonCode.GPU_LOST,
        "the GPU is lost",
        "Reset it (nvidia-smi -r) or reboot the host",
    ),
    _Cause(
        r"ldcache|ldconfig",
        _MISSING,
        "its NVIDIA container toolkit cannot run ldconfig in the container",
        'Set ldconfig = "@/sbin/ldconfig" in /etc/nvidia-container-runtime/config.toml, to where the host has it',
        other_way=True,
    ),
    _Cause(
        r"driver[ _]not[ _]loaded|driver/kernel module|could not load the nvml",
        _DRIVER,
        "the NVIDIA driver is not loaded on the engine's host",
        "Load it (modprobe nvidia); where that fails, reinstall the driver for this kernel",
    ),
    _Cause(
        r"(libnvidia-ml\.so(\.1)?|initialization error): cannot open|load library failed|nvml[^\n]*library_not_found",
        _DRIVER,
        "the NVIDIA container toolkit finds no driver library on the engine's host",
        "Install the NVIDIA driver there, with its libraries",
    ),
    _Cause(
        r"no adapters were found|no nvidia (device|gpu)s? (were )?(found|detected)",
        ReasonCode.GPU_NOT_FOUND,
        "the engine's host has no NVIDIA GPU",
        "Use a host with a GPU, or pass one through to that machine",
    ),
    _Cause(
        r"nvidia-container-cli[^\n]*file exists",
        _MISSING,
        "the image has files of an NVIDIA driver, which the toolkit puts there itself",
        "Remove them from the image (it was made in a container with a GPU)",
        other_way=True,
    ),
    # CDI
    _Cause(
        r"unresolvable cdi device[^\n]*\bruntime\.nvidia\.com",
        _MISSING,
        "the runtime `nvidia` could not make a CDI spec of this host's GPUs",
        "Run `nvidia-ctk cdi generate` on the engine's host, which says why, and fix that",
        other_way=True,
    ),
    _Cause(
        r"unresolvable cdi device|stat nvidia\.com/gpu=",
        _MISSING,
        "its CDI spec has no device of that name",
        NAME_BY_UUID,
        other_way=True,
    ),
    _Cause(
        rf"(error mounting|mount request)[^\n]*{_DRIVER_FILE}[^\n]*(no such file|not a directory)"
        rf"|cannot (stat|open|mount)[^\n]*{_DRIVER_FILE}",
        _MISSING,
        "its CDI spec is of another version of the driver, and names files that are not there",
        GENERATE_SPEC,
        other_way=True,
    ),
    _Cause(
        r"(stat|gathering device information|cdi)[^\n]*/dev/(nvidia|nvhost|nvmap|dri|dxg)[^\n]*no such (file|device)",
        _MISSING,
        "a device node of its CDI spec does not exist",
        "Have the driver make its nodes (nvidia-modprobe -u -c=0; modprobe nvidia-uvm), then generate the spec anew "
        "(nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml)",
        other_way=True,
    ),
    _Cause(
        r"(nvidia-ctk|nvidia-cdi-hook)\b[^\n]*(no such file|not found)",
        _MISSING,
        "its CDI spec names a program of the NVIDIA container toolkit that is not there",
        GENERATE_SPEC,
        other_way=True,
    ),
    _Cause(
        r"no help topic for|flag provided but not defined|incorrect usage",
        _MISSING,
        "its CDI spec is of another version of the NVIDIA container toolkit",
        GENERATE_SPEC,
        other_way=True,
    ),
    _Cause(
        r"conflicting device",
        _MISSING,
        "two of its CDI specs have a device of that name",
        "Remove one of the two on the engine's host",
        other_way=True,
    ),
    _Cause(
        r"(load|parse|pars|read|invalid)[^\n]*cdi[^\n]*spec|cdi[^\n]*(failed to (load|parse)|invalid spec)",
        _MISSING,
        "its CDI spec cannot be read",
        GENERATE_SPEC,
        other_way=True,
    ),
    # After all that name more
    _Cause(
        r"(fork/exec|open failed: /proc)[^\n]*permission denied",
        _MISSING,
        "something confines the NVIDIA container toolkit on the engine's host, such as a snap, AppArmor or SELinux",
        "Use Docker's own packages and no snap, or look in the host's log for what was denied (AppArmor: DENIED; "
        "SELinux: avc) and allow it",
        other_way=True,
    ),
    _Cause(
        r"not in ready state|system[ _]not[ _]ready",
        _DRIVER,
        "the driver waits for the fabric between the GPUs",
        "Start nvidia-fabricmanager on the engine's host, of the driver's version",
    ),
    _Cause(
        r"insufficient[ _]permissions|no_permission|gpu access blocked|(nvml|nvidia)[^\n]*permission denied"
        r"|permission denied[^\n]*/dev/nvidia",
        _DRIVER,
        "the NVIDIA container toolkit may not open the GPU",
        "Give the engine's user access to /dev/nvidiactl and /dev/nvidia* (group video or render; under WSL2, update "
        "the Windows driver)",
    ),
    _Cause(
        r"nvidia-container-cli[^\n]*(nvml|driver|cuda|initialization|detection) error|failed to initialize nvml",
        _DRIVER,
        "the driver on the engine's host answers the NVIDIA container toolkit with an error",
        "Run `nvidia-container-cli info` there, and look in the kernel's log for NVRM",
    ),
)
_ABOUT_GPUS: Final = (
    r"nvidia-container|nvidia container runtime|nvidia-ctk|nvidia-cdi|nvidia_visible|nvidia_driver|\bnvml\b|libcuda"
    r"|\blibnv|nvidia\.com/gpu|/dev/(nvidia|dxg|nvhost|nvmap)|\bcdi\b|device driver|device request"
    rf"|{_DRIVER_FILE}"
    r"|gpu vendor|modification to oci spec|(unknown|invalid|oci) runtime[^\n]* \"?nvidia\b"
    r"|(prestart|createruntime|createcontainer) hook"
)
"""A container with GPUs is refused for much else: a refusal about them has one of these."""
# A folder of the engine's own, with a container's id, says nothing to anybody.
_ENGINE_FOLDER: Final = re.compile(
    r"/\S*/(?:overlay2|overlay|overlay-containers|containers)/\S*?/(?:merged|userdata|rootfs)|/\S*/mnt/[0-9a-f]{64}"
)
_PREAMBLE: Final = re.compile(
    r"^.*(?:stderr:|create failed:|container init:|OCI spec(?:ification)?:|CDI devices:|CDI device injection failed:)"
    r"\s*",
    re.DOTALL,
)
# Older toolkits show the command too, whose options have words of other errors.
_COMMAND: Final = re.compile(r"exec command: \[.*?\]", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\+[n\"]?|\"+(?=: unknown)")
_AUTO_DETECTED: Final = re.compile(r"^(?:Auto-detected mode as '\w+'|Using requested mode '\w+')\s*")


def judge_refusal(said: str) -> Refusal | None:
    """What the engine meant that refused a container with GPUs, at its creation or start; None for a refusal that is
    not about GPUs.
    """
    text = _COMMAND.sub("", said).lower()
    if re.search(_ABOUT_GPUS, text) is None:
        return None
    for cause in _CAUSES:
        if re.search(cause.pattern, text):
            problem = _problem(cause.code, f"{cause.what} ({_words(said)})", cause.step)
            return Refusal(problem, cause.other_way, cause.absent)
    step = "Try it by hand on the engine's host (docker run --rm --gpus all …) and fix what it names"
    what = f"it refuses the GPU, and says {_words(said) or 'nothing'}"
    return Refusal(_problem(_MISSING, what, step), other_way=True)


def judge_engine(engine: EngineGpus, forced: Way | None = None) -> GpuProblem | None:
    """Why the engine cannot hand out GPUs, before it is tried; None where it can, as far as is known. `forced`: the
    operator's choice.
    """
    # An engine that reports no driver may still serve `nvidia`, so only a refusal counts; the others it would report.
    if engine.only_cdi and (forced not in (None, "cdi") or "cdi" not in engine.drivers):
        return _problem(
            _MISSING,
            "Podman starts containers without the GPUs of a device request, and before 5.4 without CDI devices too",
            "Use Podman 5.4 or newer with a CDI spec (nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml) and "
            "ORCHESTRATOR_GPU_DRIVER unset, or Docker",
        )
    if forced == "cdi" and "cdi" not in engine.drivers:
        return _problem(
            _MISSING,
            "the settings force CDI (ORCHESTRATOR_GPU_DRIVER), and the engine knows no CDI device nvidia.com/gpu",
            f"{INSTALL_TOOLKIT} with CDI enabled, or unset ORCHESTRATOR_GPU_DRIVER",
        )
    if forced == "runtime" and "nvidia" not in engine.drivers:
        return _problem(
            _MISSING,
            "the settings force the runtime `nvidia` (ORCHESTRATOR_GPU_DRIVER), and the engine does not list it",
            CONFIGURE_RUNTIME,
        )
    return None


def without_names() -> GpuProblem:
    """The problem of an engine that has GPUs only by CDI, under names that do not tell which GPU they are."""
    return _problem(_MISSING, "its CDI spec names no device that is exactly the granted GPUs", NAME_BY_UUID)


def worst(refusals: Sequence[Refusal]) -> GpuProblem:
    """Of the refusals of all ways that were tried, the one to act on."""
    return next((each for each in refusals if not each.absent), refusals[0]).problem


def _problem(code: ReasonCode, what: str, step: str) -> GpuProblem:
    subject = "The container engine cannot hand out the GPU" if code is _MISSING else "The GPU cannot be used"
    return GpuProblem(code, f"{subject}: {what}. {step}, {RESTART}.")


def _words(said: str) -> str:
    words = _PREAMBLE.sub("", _COMMAND.sub("", said).strip())
    words = _AUTO_DETECTED.sub("", _ENGINE_FOLDER.sub("…", _ESCAPED.sub(" ", words)).strip())
    words = " ".join(words.split()).rstrip(".").removesuffix(": unknown").rstrip('." ')
    return words if len(words) <= _MAX_WORDS else f"{words[:_MAX_WORDS]}…"
