"""What a container may do is decided in one module: nothing that a manifest did not request, and never a privilege."""

import hashlib
import json
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.containers.spec import BindMount, ContainerSpec, Gateway, Volume
from orchestrator.loader.manifest import Limits, Manifest
from orchestrator.loader.model_locations import locate_models
from orchestrator.models.store import ModelStore
from orchestrator.settings import Settings
from orchestrator.supervisor.container_policy import InstanceIdentity, container_spec, effective_limits, made_from

RUN_FOLDER = Path("/somewhere/run/abcd1234")
MODELS = Path("/somewhere/models")
MADE_FROM = ("plugin-orchestrator.manifest", "plugin-orchestrator.limits")


def manifest(**fields: Any) -> Manifest:
    least = {"name": "reader", "version": "1", "description": "Reads.", "entrypoint": "reader.plugin:Reader"}
    return Manifest.model_validate({**least, **fields})


def spec(
    settings: Settings | None = None, gateway: Gateway | None = None, cores: int = 0, **fields: Any
) -> ContainerSpec:
    """The container of a plugin with this manifest."""
    requested = manifest(**fields)
    return container_spec(
        requested,
        effective_limits(requested, settings or Settings()),
        InstanceIdentity("d3pl0y", "reader", 4, "abcd1234"),
        image="sha256:1",
        run_folder=RUN_FOLDER,
        models=locate_models(requested, MODELS, None),
        max_result=1000,
        cores=cores,
        gateway=gateway,
    )


def test_a_plugin_that_asks_for_nothing_has_nothing() -> None:
    """Not root, nothing to write on but its scratch folder and its sockets, no network, no device."""
    container = spec()
    assert container.user == "65532:65532"
    assert container.read_only
    assert container.network == "none"
    assert container.devices is None
    assert container.mounts == (BindMount(RUN_FOLDER, "/run/plugin", read_only=False),)
    assert container.volumes == (Volume("/scratch"),)
    assert {option for options in container.tmpfs.values() for option in options.split(",")} >= {
        "nosuid",
        "nodev",
        "noexec",
    }


def test_a_gateway_gives_the_container_itself_nothing() -> None:
    """Its sockets are in the engine's memory instead of a folder of the host; it has no network all the same."""
    gateway = Gateway("sha256:2", RUN_FOLDER / "gateway-token", "/run/plugin")
    container = spec(gateway=gateway)
    assert (container.network, container.mounts, container.gateway) == ("none", (), gateway)
    assert "NOTIFY_SOCKET" not in container.environment


def test_there_is_no_word_for_a_privilege() -> None:
    """Neither a container specification nor a manifest has a field that could give one."""
    names = {field.name for field in fields(ContainerSpec)} | set(Manifest.model_fields) | set(Limits.model_fields)
    words = ("privileged", "cap", "security", "host", "socket", "ipc", "userns", "sysctl", "root", "restart")
    assert not [name for name in names for word in words if word in name]


def test_the_defaults_are_a_minute_and_a_gibibyte() -> None:
    """The guards that a plugin always has."""
    limits = effective_limits(manifest(), Settings())
    assert (limits.timeout, limits.memory, limits.startup_timeout) == (60, 1024**3, 120)
    assert (limits.pids, limits.cpus, limits.concurrency, limits.queue) == (128, None, 1, 16)
    assert (spec().memory, spec().pids) == (1024**3, 128)


OVERRIDES: list[tuple[str, str, object, object]] = [
    ("timeout", "5s", timedelta(seconds=30), (5.0, 30.0)),
    ("memory", "64MiB", 1 << 21, (64 << 20, 1 << 21)),
    ("cpus", "0.5", 2.0, (0.5, 2.0)),
    ("pids", "16", 32, (16, 32)),
    ("shm", "1MiB", 1 << 22, (1 << 20, 1 << 22)),
    ("scratch", "8MiB", 1 << 24, (8 << 20, 1 << 24)),
]


@pytest.mark.parametrize(("limit", "own", "default", "expected"), OVERRIDES, ids=[row[0] for row in OVERRIDES])
def test_each_limit_is_the_plugins_own_or_the_operators_default(
    limit: str, own: str, default: object, expected: tuple[object, object]
) -> None:
    """The manifest's word counts where it gives one."""
    settings = Settings.model_validate({f"default_{limit}": default})
    from_manifest = effective_limits(manifest(limits={limit: own}), settings)
    from_operator = effective_limits(manifest(), settings)
    assert (getattr(from_manifest, limit), getattr(from_operator, limit)) == expected


def test_defaults_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names that the contract fixes."""
    monkeypatch.setenv("ORCHESTRATOR_DEFAULT_TIMEOUT", "90s")
    monkeypatch.setenv("ORCHESTRATOR_DEFAULT_MEMORY", "2GiB")
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", "/a:/b")
    settings = Settings()
    limits = effective_limits(manifest(), settings)
    assert (limits.timeout, limits.memory) == (90, 2 * 1024**3)
    assert settings.plugins_dirs == (Path("/a"), Path("/b"))


@pytest.mark.parametrize(("name", "value"), [("TIMEOUT", "90"), ("TIMEOUT", "0s"), ("MEMORY", "much"), ("PIDS", "1")])
def test_a_default_that_is_no_limit_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A setting that was misunderstood would be no guard."""
    monkeypatch.setenv(f"ORCHESTRATOR_DEFAULT_{name}", value)
    with pytest.raises(ValueError, match=f"default_{name.lower()}"):
        Settings()


def test_models_are_mounted_one_by_one_and_read_only() -> None:
    """The file, not its folder; its path is in the environment."""
    container = spec(models={"weights": "models/w.pt", "labels": "labels.txt"})
    assert [mount for mount in container.mounts if mount.target.startswith("/models")] == [
        BindMount(MODELS / "models" / "w.pt", "/models/weights/w.pt", read_only=True),
        BindMount(MODELS / "labels.txt", "/models/labels/labels.txt", read_only=True),
    ]
    assert json.loads(container.environment["PLUGIN_MODELS"]) == {
        "weights": "/models/weights/w.pt",
        "labels": "/models/labels/labels.txt",
    }


def test_a_fetched_model_is_mounted_under_its_own_name_and_named_in_a_label(tmp_path: Path) -> None:
    """In the store it is called by its hash; `models gc` finds by the label what is mounted."""
    sha256 = hashlib.sha256(b"weights").hexdigest()
    store = ModelStore(tmp_path)
    with store.open_partial(sha256) as partial:
        partial.append(b"weights")
        partial.publish()
    fetched = {"path": "deep/w.pt", "from": ["https://user:hunter2@host/any"], "sha256": sha256.upper()}
    requested = manifest(models={"weights": fetched, "labels": "labels.txt"})
    container = container_spec(
        requested,
        effective_limits(requested, Settings()),
        InstanceIdentity("d3pl0y", "reader", 4, "abcd1234"),
        image="sha256:1",
        run_folder=RUN_FOLDER,
        models=locate_models(requested, MODELS, None, store),
        max_result=1000,
    )
    assert BindMount(tmp_path / "sha256" / sha256, "/models/weights/w.pt", read_only=True) in container.mounts
    assert BindMount(MODELS / "labels.txt", "/models/labels/labels.txt", read_only=True) in container.mounts
    assert json.loads(container.environment["PLUGIN_MODELS"])["weights"] == "/models/weights/w.pt"
    assert container.labels["plugin-orchestrator.models"] == sha256
    assert "hunter2" not in f"{container}"
    again, _ = made_from(container.labels) or (None, None)
    assert again is not None
    assert (again.models["weights"].path, again.models["weights"].sha256) == ("deep/w.pt", sha256)
    assert "plugin-orchestrator.models" not in spec(models={"labels": "labels.txt"}).labels


def test_a_folder_keeps_its_own_name() -> None:
    """Libraries tell kinds of models by it; the whole of the models' folder has none."""
    container = spec(models={"minilm": "nets/minilm/", "all": "."})
    assert [mount for mount in container.mounts if mount.target.startswith("/models")] == [
        BindMount(MODELS / "nets" / "minilm", "/models/minilm/minilm", read_only=True),
        BindMount(MODELS, "/models/all", read_only=True),
    ]


def test_the_only_way_out_is_the_one_that_was_requested() -> None:
    """`egress` is a bridge; the host's own network cannot be had."""
    assert spec(network="egress").network == "bridge"


def test_a_container_gets_what_the_protocol_says() -> None:
    """And what its manifest adds; the host's environment stays outside."""
    environment = spec(env={"OMP_NUM_THREADS": "1"}, packages=["cv2"], limits={"scratch": "1MiB"}).environment
    assert environment == {
        "OMP_NUM_THREADS": "1",
        "PLUGIN_NAME": "reader",
        "PLUGIN_ENTRYPOINT": "reader.plugin:Reader",
        "PLUGIN_PACKAGES": '["cv2"]',
        "PLUGIN_MODELS": "{}",
        "PLUGIN_RUN_DIR": "/run/plugin",
        "PLUGIN_SCRATCH_DIR": "/scratch",
        "PLUGIN_MAX_RESULT": "1000",
        "PLUGIN_MAX_SCRATCH": str(1 << 20),
        "PLUGIN_MAX_OUTPUT": str(4 << 30),
        "PLUGIN_CONCURRENCY": "1",
        "PLUGIN_LIMITS": '{"memory_bytes": 1073741824, "swap_bytes": 0, "pids": 128}',
        "NOTIFY_SOCKET": "/run/plugin/notify.sock",
    }


COMPUTING = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "RAYON_NUM_THREADS")


@pytest.mark.parametrize(
    ("limits", "concurrency", "cores", "threads"),
    [
        ({"cpus": 2}, 1, 64, "2"),
        ({"cpus": 1.5}, 1, 64, "2"),
        ({"cpus": 0.5}, 1, 64, "1"),
        ({"cpus": 4}, 1, 0, "4"),
        ({}, 1, 8, "8"),
        ({}, 1, 64, "37"),
        ({}, 8, 64, "11"),
        ({"pids": 1024}, 1, 64, "64"),
        ({"cpus": 64}, 1, 64, "37"),
        ({"pids": 8}, 1, 64, "1"),
        ({}, 1, 0, None),
    ],
)
def test_libraries_make_as_many_threads_as_the_plugin_may_use(
    limits: dict[str, float], concurrency: int, cores: int, threads: str | None
) -> None:
    """By `limits.cpus`, else the host's cores; so few that the teams of all threads that compute fit `limits.pids`."""
    environment = spec(limits=limits, concurrency=concurrency, cores=cores).environment
    assert {environment.get(name) for name in COMPUTING} == {threads}


def test_the_number_of_threads_that_a_manifest_sets_stays() -> None:
    """A library that has no number of its own follows OMP_NUM_THREADS, so that none may override it."""
    environment = spec(env={"MKL_NUM_THREADS": "1"}, limits={"cpus": 4}).environment
    assert (environment["MKL_NUM_THREADS"], environment["OMP_NUM_THREADS"]) == ("1", "4")
    environment = spec(env={"OMP_NUM_THREADS": "1"}, limits={"cpus": 4}).environment
    assert environment["OMP_NUM_THREADS"] == "1"
    assert {name for name in COMPUTING if name in environment} == {"OMP_NUM_THREADS", "RAYON_NUM_THREADS"}


def test_a_container_carries_whose_it_is() -> None:
    """Deployment, plugin, generation and instance: nothing else of this host is ever touched."""
    container = spec()
    assert {name: value for name, value in container.labels.items() if name not in MADE_FROM} == {
        "plugin-orchestrator.deployment": "d3pl0y",
        "plugin-orchestrator.plugin": "reader",
        "plugin-orchestrator.generation": "4",
        "plugin-orchestrator.instance": "abcd1234",
        "plugin-orchestrator.content": "",
    }
    assert container.name == "plugin-reader-abcd1234"


def test_a_container_carries_what_it_was_made_from() -> None:
    """Manifest and limits, whatever the plugin's folder has by now; in no form of another version are they read."""
    fields: dict[str, Any] = {
        "limits": {"timeout": "90s", "memory": "512MiB", "cpus": 1.5},
        "startup_timeout": "2m",
        "requires_gpu": True,
        "gpu": {"memory": "4GiB", "sharing": "shared"},
        "models": {"weights": "models/w.pt"},
        "env": {"A": "b"},
        "failure_policy": "tolerant",
    }
    made = manifest(**fields)
    limits = effective_limits(made, Settings())
    labels = spec(**fields).labels
    assert made_from(labels) == (made, limits)
    for name in MADE_FROM:
        assert made_from({**labels, name: "{"}) is None
        assert made_from({**labels, name: '{"of": "another version"}'}) is None
        assert made_from({other: value for other, value in labels.items() if other != name}) is None


# Disk


def test_scratch_is_held_to_its_limit_where_the_engine_can() -> None:
    """And the container says so, for the orchestrator that adopts it."""
    requested = manifest(limits={"scratch": "2GiB"})
    limits = effective_limits(requested, Settings())
    identity = InstanceIdentity("d" * 8, "reader", 1, "abcd1234")
    held = container_spec(
        requested,
        limits,
        identity,
        image="i",
        run_folder=RUN_FOLDER,
        models={},
        max_result=1,
        quota=True,
    )
    assert held.volumes == (Volume("/scratch", size=2 * 1024**3),)
    assert held.labels["plugin-orchestrator.scratch-quota"] == "1"
    assert "plugin-orchestrator.scratch-quota" not in spec().labels


def test_a_cache_is_a_volume_of_the_plugin_and_where_libraries_look() -> None:
    """One for each plugin of a deployment, whatever its image and its version are. `env` has the last word."""
    container = spec(cache="2GiB", env={"TORCH_HOME": "/scratch/torch"})
    scratch, cache = container.volumes
    assert (scratch.target, cache.target) == ("/scratch", "/cache")
    assert cache.name == spec(cache="3GiB", version="9", image="other/image:1").volumes[1].name
    assert "reader" in cache.name
    assert cache.labels["plugin-orchestrator.cache"] == "reader"
    assert container.environment["PLUGIN_CACHE_DIR"] == container.environment["XDG_CACHE_HOME"] == "/cache"
    assert container.environment["PLUGIN_MAX_CACHE"] == str(2 * 1024**3)
    assert container.environment["HF_HOME"] == "/cache/huggingface"
    assert container.environment["TORCH_HOME"] == "/scratch/torch"


def test_without_a_cache_nothing_points_to_one() -> None:
    """The images point everything to the scratch folder."""
    assert not [value for value in spec().environment.values() if "/cache" in value]
    assert "PLUGIN_CACHE_DIR" not in spec().environment
