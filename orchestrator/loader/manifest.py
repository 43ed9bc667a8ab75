"""plugin.yaml: the manifest of a plugin. An unknown field is an error, because a misspelt limit would be no limit."""

import re
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator.errors import ManifestError
from orchestrator.loader.placement_field import PlacementField, placement_field
from orchestrator.loader.yaml_file import explained, read_yaml, shortened
from orchestrator.models.plan import Reference
from orchestrator.models.sources import check_url
from orchestrator.settings import Duration, Size

MANIFEST_FILE = "plugin.yaml"
_MIN_MEMORY = 6 * 1024**2  # Docker Engine's minimum; Python alone needs more

PluginName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_ImportName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
_Entrypoint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
_DebianPackage = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
_ImageReference = Annotated[
    str,
    StringConstraints(
        max_length=512,
        # ASCII, as in Docker: `\w` matches letters of all scripts, and `\w{0,127}` took 70 ms and megabytes to compile.
        pattern=r"^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$",
    ),
]
_EnvValue = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
_EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
_ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

MAX_REPLICAS = 64
MIN_IDLE = timedelta(seconds=1)

_RESERVED_ENV = frozenset(
    {"NOTIFY_SOCKET", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "PATH", "PYTHONPATH", "HOME", "TMPDIR"}
)


def _number(value: Any) -> Any:
    # YAML reads `yes` and `on` as true, which pydantic takes for 1.
    if isinstance(value, bool):
        raise ValueError(f"expected a number, not {str(value).lower()}")  # noqa: TRY004  pydantic reports ValueErrors
    return value


_Number = BeforeValidator(_number)


class _Strict(BaseModel):
    # Descriptions are in `Field`: pydantic reads docstrings of fields from the source, a tenth of the start-up time.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """What the container may use. A missing value is the operator's default."""

    timeout: Duration | None = Field(None, description="Longest execution of a tool, e.g. 60s.")
    memory: Annotated[Size, Field(ge=_MIN_MEMORY, lt=2**50)] | None = Field(
        None, description="Memory of the whole container, swap included, e.g. 1GiB."
    )
    cpus: Annotated[float, _Number] | None = Field(
        None, ge=0.01, le=4096, allow_inf_nan=False, description="CPU cores."
    )
    pids: Annotated[int, _Number] | None = Field(None, ge=8, le=32768, description="Processes and threads.")
    shm: Annotated[Size, Field(lt=2**50)] | None = Field(
        None, description="Size of /dev/shm; counts against the memory."
    )
    scratch: Annotated[Size, Field(lt=2**50)] | None = Field(
        None, description="Disk for uploads and for what the plugin writes, together."
    )
    output: Annotated[Size, Field(lt=2**50)] | None = Field(None, description="All files that one run gives.")


class Gpu(_Strict):
    """The demand of a plugin with `requires_gpu: true`."""

    count: Annotated[int, _Number] = Field(1, ge=1, le=16, description="GPUs that the plugin needs.")
    memory: Size | None = Field(None, description="Memory needed on each GPU.")
    sharing: Literal["exclusive", "shared"] = Field(
        "exclusive", description="`shared` needs `memory`, the budget on each GPU."
    )
    video: bool = Field(default=False, description="Also the GPU's video encoder and decoder.")

    @field_validator("sharing")
    @classmethod
    def _budgeted(cls, value: str, info: ValidationInfo) -> str:
        if value == "shared" and info.data.get("memory") is None:
            raise ValueError("expected `memory` beside `sharing: shared`, such as memory: 4GiB")
        return value


class UpdatePolicy(_Strict):
    """How instances that are not wanted any more are replaced."""

    strategy: Literal["auto", "overlap", "replace"] = Field(
        "auto",
        description="`overlap`: the new instance is proven beside the old one, which serves until then. `replace`: the "
        "old one is stopped first. `auto`: overlap where memory and GPUs allow it.",
    )
    drain: Duration = Field(
        timedelta(seconds=60), description="How long runs under way in the old instance may take to end, e.g. 60s."
    )
    observe: Duration = Field(
        timedelta(seconds=8),
        description="How long a candidate that has answered its sample calls must stay well before it takes runs, e.g. "
        "8s: a worker that deadlocks is found after 5 s.",
    )


def _long_enough(value: timedelta) -> timedelta:
    if value < MIN_IDLE:
        raise ValueError("expected at least 1s: a start takes longer than that")
    return value


class Idle(_Strict):
    """When an instance without runs is parked."""

    after: Annotated[Duration, AfterValidator(_long_enough)] | None = Field(
        None,
        description="Parked after so long without a run, e.g. 10m, at least 1s; never for that reason where it is left "
        "out.",
    )
    keep: bool = Field(
        default=False,
        description="With GPUs: never parked for another plugin, and started although ORCHESTRATOR_PARKED is set.",
    )


def _update(value: Any) -> Any:
    if isinstance(value, dict | UpdatePolicy):
        return value
    raise ValueError(f"expected `strategy`, `drain` or both, such as update: {{drain: 60s}}, not {shortened(value)}")


def _idle(value: Any) -> Any:
    if isinstance(value, dict | Idle):
        return value
    raise ValueError(f"expected `after`, `keep` or both, such as idle: {{after: 10m}}, not {shortened(value)}")


def _replicas(value: Any) -> Any:
    if value == 0 and type(value) is int:
        raise ValueError(f"expected 1 to {MAX_REPLICAS}, not 0; to run none, use `orchestrator stop`")
    if type(value) is not int or not 1 <= value <= MAX_REPLICAS:
        raise ValueError(f"expected a whole number from 1 to {MAX_REPLICAS}, not {shortened(value)}")
    return value


def _check_model_path(value: str) -> str:
    if "://" in value:
        raise ValueError(
            f"expected a path inside the plugin's folder; an address goes under `from`, not {shortened(value)}"
        )
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError(f"expected a path inside the plugin's folder, not {shortened(value)}")
    return value


class Model(_Strict):
    """A model: where it is, and from where `orchestrator models pull` fetches it."""

    path: Annotated[str, AfterValidator(_check_model_path)] = Field(
        description="The file or folder, relative to the plugin's folder (or to its folder in MODELS_DIR)."
    )
    sources: tuple[str, ...] = Field(
        (),
        alias="from",
        exclude=True,  # may have credentials, and a container's labels hold the manifest that it was made from
        max_length=16,
        description="Addresses of the file, https:// or file://, tried in this order by `orchestrator models pull`.",
    )
    sha256: str | None = Field(
        None,
        description="SHA-256 of the file, 64 hexadecimal digits; required with `from`.",
        json_schema_extra={"pattern": "^[0-9A-Fa-f]{64}$"},
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        # Here and not by pydantic, whose messages repeat what was given, with its credentials.
        if not isinstance(value, list | tuple) or not all(isinstance(url, str) for url in value):
            raise ValueError("expected a list of addresses, such as [https://host/model.onnx]")
        for url in value:
            try:
                check_url(url)
            except ValueError as error:
                raise ValueError(f"expected {error}") from None
        return value

    @field_validator("sha256", mode="before")
    @classmethod
    def _hash(cls, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str) or re.fullmatch(r"[0-9A-Fa-f]{64}", value) is None:
            raise ValueError(f"expected 64 hexadecimal digits, as `sha256sum FILE` prints them, not {shortened(value)}")
        return value.lower()

    @model_validator(mode="after")
    def _can_be_fetched(self) -> "Model":
        if self.sources and self.sha256 is None:
            raise ValueError("`from` needs `sha256`, which `sha256sum FILE` prints: nothing else says what the file is")
        if self.sources and (self.path.endswith("/") or not PurePosixPath(self.path).name):
            raise ValueError(f"`from` fetches one file, and path: {self.path!r} names none")
        return self


def _model(value: Any) -> Any:
    """A path alone is a model too."""
    if isinstance(value, str):
        return {"path": _check_model_path(value)}
    if isinstance(value, dict | Model):
        return value
    raise ValueError(f"expected a path, or `path`, `from` and `sha256`, not {shortened(value)}")


def _name_is_optional(schema: dict[str, Any]) -> None:
    schema["required"] = [field for field in schema["required"] if field != "name"]


class Manifest(_Strict):
    """The content of plugin.yaml."""

    # `read_manifest` fills in the name.
    model_config = ConfigDict(json_schema_extra=_name_is_optional)

    name: PluginName = Field(description="A DNS label, unique among all plugins; the folder's name when left out.")
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="The plugin's version, shown in the API."
    )
    description: Annotated[str, StringConstraints(min_length=1, max_length=1000)] = Field(
        description="What the plugin does, shown in the API and on the page."
    )
    entrypoint: _Entrypoint = Field(description="package.module:Class")
    image: _ImageReference = Field(
        "base", description="`base`, `cuda`, or the reference of a prebuilt image that speaks the runtime protocol."
    )
    system_packages: tuple[_DebianPackage, ...] = Field(
        (), description="Debian packages that the image build installs."
    )
    packages: tuple[_ImportName, ...] = Field((), description="Import names that must be found in the container.")
    models: dict[_ModelName, Annotated[Model, BeforeValidator(_model, json_schema_input_type=str | Model)]] = Field(
        default_factory=dict,
        description="Name → path of a model, relative to the plugin's folder (or to its folder in MODELS_DIR); or "
        "`path`, `from` and `sha256` of a file that `orchestrator models pull` fetches.",
    )
    cache: Annotated[Size, Field(lt=2**50)] | None = Field(
        None,
        description="Size of a folder that outlives instances, for what can be made or fetched again, e.g. 2GiB.",
    )
    env: dict[_EnvName, _EnvValue] = Field(default_factory=dict, description="Fixed environment variables.")
    secrets: Annotated[tuple[_SecretName, ...], Field(max_length=64)] = Field(
        (), description="Names of secrets that the operator provides; handed in as files."
    )
    requires_gpu: bool = Field(default=False, description="Without a usable GPU the plugin is UNAVAILABLE.")
    gpu: Gpu = Field(Gpu(), description="Which GPUs; only with `requires_gpu: true`.")
    limits: Limits = Field(Limits(), description="What the container may use; the operator's defaults where left out.")
    startup_timeout: Duration | None = Field(None, description="From container start to INITIALIZED, e.g. 120s.")
    concurrency: Annotated[int, _Number] = Field(1, ge=1, le=256, description="Runs executed at once by an instance.")
    queue: Annotated[int, _Number] = Field(16, ge=0, le=10000, description="Runs that may wait.")
    replicas: Annotated[int, BeforeValidator(_replicas)] = Field(
        1, ge=1, le=MAX_REPLICAS, description="Instances at a time, each in a container with these limits and GPUs."
    )
    spread: Literal["gpu", "pack"] = Field(
        "gpu",
        description="`gpu`: each instance gets a GPU of its own before any GPU gets two. `pack`: as few GPUs as "
        "`gpu.memory` allows, with `gpu.sharing: shared`.",
    )
    update: Annotated[UpdatePolicy, BeforeValidator(_update)] = Field(
        UpdatePolicy(), description="How a new version takes over: `strategy` and `drain`."
    )
    idle: Annotated[Idle, BeforeValidator(_idle)] = Field(
        Idle(), description="When an instance without runs is parked: stopped, until the next run begins a new one."
    )
    placement: Annotated[PlacementField, BeforeValidator(placement_field)] = Field(
        PlacementField(), description="Behind a front, on which hosts it is: `hosts` and `requires`."
    )
    network: Literal["none", "egress"] = Field("none", description="`egress` if the plugin must reach out.")
    failure_policy: Literal["strict", "tolerant"] = Field(
        "strict",
        description="When a tool raises: `strict` ends the plugin (FAILED) until an operator restarts it; `tolerant` "
        "answers that call with the error, counts it, and the plugin goes on. InvalidInput ends it under neither; a "
        "timeout, the memory limit and a crash end it under both.",
    )

    @field_validator("secrets")
    @classmethod
    def _secrets_come_once(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in secrets if secrets.count(name) > 1}):
            raise ValueError(f"{twice[0]} is listed twice")
        return secrets

    @field_validator("env")
    @classmethod
    def _env_leaves_ours_alone(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if name in _RESERVED_ENV or name.startswith("PLUGIN_"):
                raise ValueError(f"{name} is set by the orchestrator and cannot be set here")
        return env

    @model_validator(mode="after")
    def _gpu_fits(self) -> "Manifest":
        if not self.requires_gpu and "gpu" in self.model_fields_set:
            raise ValueError("gpu: is set, but requires_gpu is not true")
        if not self.requires_gpu and (needed := [name for name in self.placement.requires if name.startswith("gpu.")]):
            raise ValueError(f"placement: requires {needed[0]}, but requires_gpu is not true")
        return self

    @property
    def may_be_parked(self) -> bool:
        """Its instances may be stopped while they have no runs: by `idle.after`, or so that another gets their GPUs."""
        return self.idle.after is not None or (self.requires_gpu and not self.idle.keep)

    def references(self) -> list[Reference]:
        """Its models, as the store of fetched models needs them."""
        return [
            Reference(self.name, name, model.path, model.sha256, model.sources) for name, model in self.models.items()
        ]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the plugin in `folder`. Raises `ManifestError` with file, field and expectation."""
    label = f"{folder.name}/{MANIFEST_FILE}"
    return _validate(_read_mapping(folder / MANIFEST_FILE, label), label, folder)


def declared_name(folder: Path) -> str | None:
    """The name in a manifest that may be broken otherwise; None where it cannot be read."""
    try:
        name = _read_mapping(folder / MANIFEST_FILE, "").get("name", folder.name.replace("_", "-"))
    except ManifestError:
        return None
    return name if isinstance(name, str) else None


def _read_mapping(path: Path, label: str) -> dict[str, Any]:
    content = read_yaml(path, label).content
    if not isinstance(content, dict):
        raise ManifestError(
            f"{label}: expected fields such as `version:` and `entrypoint:`, not a {type(content).__name__}"
        )
    return content


def _validate(content: dict[str, Any], label: str, folder: Path) -> Manifest:
    try:
        return Manifest.model_validate({"name": folder.name.replace("_", "-"), **content})
    except ValidationError as error:
        raise ManifestError(f"{label}: " + explained(error, "manifest", _EXPECTED)) from None
    except TypeError:
        raise ManifestError(f"{label}: expected field names to be text") from None


_EXPECTED = {
    "name": "a DNS label (small letters, digits and -, at most 63)",
    "entrypoint": "package.module:Class",
    "image": "`base`, `cuda` or an image reference",
    "system_packages": "names of Debian packages",
    "packages": "import names",
    "secrets": "letters, digits and _, starting with a letter, at most 64",
}
