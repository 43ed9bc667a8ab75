"""From manifest, settings and GPU grant to a container specification. Pure: what a plugin's container may do is decided
here alone.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final, Self

import msgspec
from plugin_runtime.shared.limits import NAMES as LIMIT_NAMES

from orchestrator.containers.spec import (
    UNPRIVILEGED_USER,
    BindMount,
    ContainerSpec,
    ContainerStatus,
    DeviceGrant,
    Gateway,
    Volume,
)
from orchestrator.loader.image_recipe import PLUGIN_LABEL
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.model_locations import ModelLocation
from orchestrator.registry import EffectiveLimits
from orchestrator.settings import Settings

RUN_FOLDER: Final = "/run/plugin"
MODELS_FOLDER: Final = "/models"
SCRATCH_FOLDER: Final = "/scratch"
CACHE_FOLDER: Final = "/cache"
SECRETS_FOLDER: Final = "/run/secrets"
TEMPORARY_FOLDER: Final = "/tmp"  # noqa: S108

LABEL_DEPLOYMENT: Final = "plugin-orchestrator.deployment"
LABEL_GENERATION: Final = "plugin-orchestrator.generation"
LABEL_INSTANCE: Final = "plugin-orchestrator.instance"
LABEL_CONTENT: Final = "plugin-orchestrator.content"
"""The instance's fingerprint."""
LABEL_MODELS: Final = "plugin-orchestrator.models"
"""SHA-256 of each of its models that may be in the store of fetched models, separated by commas."""
_IDENTITY_LABELS: Final = frozenset({LABEL_DEPLOYMENT, PLUGIN_LABEL, LABEL_GENERATION, LABEL_INSTANCE, LABEL_CONTENT})
_LABEL_MANIFEST: Final = "plugin-orchestrator.manifest"
_LABEL_LIMITS: Final = "plugin-orchestrator.limits"

LABEL_CACHE: Final = "plugin-orchestrator.cache"
"""The plugin of a volume that is its cache."""
LABEL_QUOTA: Final = "plugin-orchestrator.scratch-quota"
"""On a container whose scratch volume is held to its size by the engine."""

_CACHES: Final = {
    "XDG_CACHE_HOME": "",
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "CUDA_CACHE_PATH": "cuda",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Variable → folder in the cache. Without a cache the images point them to the scratch folder."""
_FOLLOW_OMP: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_MAX_THREADS")
"""Variables of libraries that heed OMP_NUM_THREADS where theirs is not set."""
_OWN_THREADS: Final = ("NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "TF_NUM_INTRAOP_THREADS")
_OTHER_THREADS: Final = 16
"""Processes and threads of the runtime and of libraries that compute nothing."""

_TOKEN: Final = re.compile(r"[0-9a-f]{8}")


def effective_limits(manifest: Manifest, settings: Settings) -> EffectiveLimits:
    """The manifest's limits, with the operator's default for each that it does not set."""
    own = manifest.limits
    return EffectiveLimits(
        timeout=(own.timeout or settings.default_timeout).total_seconds(),
        memory=int(own.memory or settings.default_memory),
        cpus=own.cpus or settings.default_cpus,
        pids=own.pids or settings.default_pids,
        shm=int(own.shm or settings.default_shm),
        scratch=int(own.scratch or settings.default_scratch),
        output=int(own.output or settings.default_output),
        startup_timeout=(manifest.startup_timeout or settings.default_startup_timeout).total_seconds(),
        concurrency=manifest.concurrency,
        queue=manifest.queue,
    )


def required_limits(limits: EffectiveLimits, allow_unlimited: Collection[str] = ()) -> dict[str, float]:
    """What the kernel must hold a container to, by the keys of the runtime protocol; swap is part of the memory.
    `allow_unlimited`: the names of those without which it may run.
    """
    wanted = {"memory": limits.memory, "swap": 0, "pids": limits.pids, "cpus": limits.cpus}
    allowed = {*allow_unlimited, *({"swap"} if "memory" in allow_unlimited else ())}
    return {
        key: value for key, name in LIMIT_NAMES.items() if (value := wanted[name]) is not None and name not in allowed
    }


def thread_variables(limits: EffectiveLimits, env: Mapping[str, str], cores: int) -> dict[str, str]:
    """OMP_NUM_THREADS and its like, for the libraries that compute: `limits.cpus`, else the machine's `cores` (0 where
    unknown), and no more than `limits.pids` has room for. None that `env`, the manifest's, sets or that overrides it.
    """
    # Unset, each library makes a thread for every core of the host, whatever the container may use.
    wanted = math.ceil(limits.cpus) if limits.cpus is not None else cores
    if wanted < 1:
        return {}
    # OpenMP has a team for each thread that computes; OpenBLAS and the like have a pool each: room for two is left.
    teams = limits.concurrency + 2
    count = max(1, min(wanted, (limits.pids - _OTHER_THREADS) // teams))
    names = (*_OWN_THREADS, *(() if "OMP_NUM_THREADS" in env else ("OMP_NUM_THREADS", *_FOLLOW_OMP)))
    return {name: str(count) for name in names if name not in env}


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """A container's instance. `instance` is unique on this host and short enough for a socket's path."""

    deployment: str
    plugin: str
    generation: int
    instance: str
    content: str = ""

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Self | None:
        """None for labels of another form: anybody can label a container."""
        generation, instance = labels.get(LABEL_GENERATION, ""), labels.get(LABEL_INSTANCE, "")
        if not (generation.isascii() and generation.isdigit() and _TOKEN.fullmatch(instance)):
            return None
        return cls(
            labels.get(LABEL_DEPLOYMENT, ""),
            labels.get(PLUGIN_LABEL, ""),
            int(generation),
            instance,
            labels.get(LABEL_CONTENT, ""),
        )

    def labels(self) -> dict[str, str]:
        return {
            LABEL_DEPLOYMENT: self.deployment,
            PLUGIN_LABEL: self.plugin,
            LABEL_GENERATION: str(self.generation),
            LABEL_INSTANCE: self.instance,
            LABEL_CONTENT: self.content,
        }

    @property
    def container_name(self) -> str:
        return f"plugin-{self.plugin}-{self.instance}"


def is_instance(labels: Mapping[str, str]) -> bool:
    """Whether a container was made for an instance: it has all labels of one, whatever their values."""
    # A deployment's label alone may be on anything: on a container of an image that was derived from a plugin's, or
    # that somebody labelled to find it.
    return labels.keys() >= _IDENTITY_LABELS


def instances_of(containers: Iterable[ContainerStatus]) -> list[ContainerStatus]:
    """The containers that were made for an instance."""
    return [container for container in containers if is_instance(container.labels)]


def made_from(labels: Mapping[str, str]) -> tuple[Manifest, EffectiveLimits] | None:
    """The manifest and limits that a container was made from, whatever the plugin's folder has now; None where its
    labels do not have them, or not in this version's form.
    """
    try:
        manifest = Manifest.model_validate_json(labels.get(_LABEL_MANIFEST, ""))
        return manifest, msgspec.json.decode(labels.get(_LABEL_LIMITS, ""), type=EffectiveLimits)
    except (ValueError, msgspec.MsgspecError):
        return None


def cache_labels(deployment: str, plugin: str | None = None) -> dict[str, str]:
    """Of a plugin's cache, or of all caches."""
    return {LABEL_DEPLOYMENT: deployment, **({LABEL_CACHE: plugin} if plugin is not None else {})}


def _cache(identity: InstanceIdentity) -> Volume:
    labels = cache_labels(identity.deployment, identity.plugin)
    return Volume(CACHE_FOLDER, f"plugin-orchestrator-cache-{identity.deployment}-{identity.plugin}", labels)


def cache_variables() -> dict[str, str]:
    """Variables by which libraries find a plugin's cache."""
    return {name: f"{CACHE_FOLDER}/{folder}".rstrip("/") for name, folder in _CACHES.items()}


def _cache_settings(size: int) -> dict[str, str]:
    return {"PLUGIN_CACHE_DIR": CACHE_FOLDER, "PLUGIN_MAX_CACHE": str(int(size))}


def secrets_folder(run_folder: Path) -> Path:
    """An instance's secrets on the host."""
    # In its run folder, so that they are removed with it.
    return run_folder / "secrets"


def model_labels(manifest: Manifest) -> dict[str, str]:
    """What tells `models gc` which files of the store a container may have mounted."""
    hashes = sorted({model.sha256 for model in manifest.models.values() if model.sha256 is not None})
    return {LABEL_MODELS: ",".join(hashes)} if hashes else {}


def container_spec(
    manifest: Manifest,
    limits: EffectiveLimits,
    identity: InstanceIdentity,
    *,
    image: str,
    run_folder: Path,
    models: Iterable[ModelLocation] = (),
    max_result: int,
    cores: int = 0,
    devices: DeviceGrant | None = None,
    grant_labels: Mapping[str, str] = MappingProxyType({}),
    gateway: Gateway | None = None,
    quota: bool = False,
    allow_unlimited: Collection[str] = (),
) -> ContainerSpec:
    """The container of this instance: not root, read-only, no capabilities, no network unless the manifest has
    `egress`. `models`: where they are on the host. With a `gateway` its run folder is in the engine's
    memory, else on the host. `cores`: of the engine's machine, 0 where unknown. `quota`: the engine can hold its
    scratch volume to `limits.scratch`. `allow_unlimited`: as in `required_limits`.
    """
    # The folder too keeps its own name, which libraries show and tell kinds of models by.
    model_mounts = {
        model.name: BindMount(
            model.path.resolve(), str(PurePosixPath(MODELS_FOLDER, model.name, PurePosixPath(model.declared).name))
        )
        for model in models
    }
    mounts = [] if gateway else [BindMount(run_folder, RUN_FOLDER, read_only=False)]
    mounts += model_mounts.values()
    mounts += [BindMount(secrets_folder(run_folder) / name, f"{SECRETS_FOLDER}/{name}") for name in manifest.secrets]
    return ContainerSpec(
        name=identity.container_name,
        image=image,
        labels={
            **identity.labels(),
            _LABEL_MANIFEST: manifest.model_dump_json(exclude_unset=True),
            _LABEL_LIMITS: msgspec.json.encode(limits).decode(),
            **grant_labels,
            **model_labels(manifest),
            **({LABEL_QUOTA: "1"} if quota else {}),
        },
        environment={
            **thread_variables(limits, manifest.env, cores),
            **(cache_variables() if manifest.cache else {}),
            **manifest.env,
            "PLUGIN_NAME": manifest.name,
            "PLUGIN_ENTRYPOINT": manifest.entrypoint,
            "PLUGIN_PACKAGES": json.dumps(manifest.packages),
            "PLUGIN_MODELS": json.dumps({name: mount.target for name, mount in model_mounts.items()}),
            "PLUGIN_RUN_DIR": RUN_FOLDER,
            "PLUGIN_SCRATCH_DIR": SCRATCH_FOLDER,
            "PLUGIN_MAX_RESULT": str(max_result),
            "PLUGIN_MAX_SCRATCH": str(limits.scratch),
            "PLUGIN_MAX_OUTPUT": str(limits.output),
            "PLUGIN_CONCURRENCY": str(limits.concurrency),
            "PLUGIN_LIMITS": json.dumps(required_limits(limits, allow_unlimited)),
            **({"PLUGIN_REQUIRES_GPU": "1"} if manifest.requires_gpu else {}),
            **(_cache_settings(manifest.cache) if manifest.cache else {}),
            **({} if gateway else {"NOTIFY_SOCKET": f"{RUN_FOLDER}/notify.sock"}),
        },
        memory=limits.memory,
        pids=limits.pids,
        cpus=limits.cpus,
        shm=limits.shm,
        user=UNPRIVILEGED_USER,
        network="bridge" if manifest.network == "egress" else "none",
        mounts=tuple(mounts),
        volumes=(
            Volume(SCRATCH_FOLDER, size=limits.scratch if quota else None),
            *([_cache(identity)] if manifest.cache else []),
        ),
        tmpfs={TEMPORARY_FOLDER: "rw,nosuid,nodev,noexec,size=16m,mode=1777"},
        devices=devices,
        gateway=gateway,
    )
