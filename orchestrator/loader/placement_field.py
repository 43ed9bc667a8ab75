"""`placement` in plugin.yaml: on which hosts behind a front a plugin may be, and how many."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.loader.yaml_file import shortened
from orchestrator.settings import Size

MAX_HOSTS: Final = 200
LABEL: Final = "label."
_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_MAX_VALUE: Final = 200
_SIZE: Final = TypeAdapter(Size)
_EXAMPLE: Final = "such as requires: {gpu.name: H100, gpu.memory: 40GiB, label.rack: a}"


def _hosts(value: Any) -> Any:
    if value == "all" or (type(value) is int and 1 <= value <= MAX_HOSTS):
        return value
    if isinstance(value, list | tuple) and value:
        if wrong := [name for name in value if not (isinstance(name, str) and _HOST_NAME.fullmatch(name))]:
            raise ValueError(f"expected names of hosts, such as [gpu-1, gpu-2], not {shortened(wrong[0])}")
        if twice := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"{twice[0]} is listed twice")
        return tuple(value)
    raise ValueError(
        f"expected a number of hosts from 1 to {MAX_HOSTS}, `all`, or a list of names such as [gpu-1], not "
        f"{shortened(value)}"
    )


def _requires(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"expected requirements, {_EXAMPLE}, not {shortened(value)}")  # noqa: TRY004 - for pydantic
    return {name: _requirement(name, each) for name, each in value.items()}


def _requirement(name: Any, value: Any) -> str | int:
    match name:
        case "gpu.memory":
            try:
                return int(_SIZE.validate_python(value))
            except ValidationError:
                raise ValueError(f"gpu.memory: expected a size such as 40GiB, not {shortened(value)}") from None
        case "gpu.name":
            return _text(name, value)
        case str() if name.startswith(LABEL) and _LABEL_NAME.fullmatch(name.removeprefix(LABEL)):
            return _text(name, value)
        case _:
            raise ValueError(f"{shortened(name)} is no requirement; expected gpu.name, gpu.memory or label.NAME")


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool | int):  # YAML reads `label.rack: 7` and `label.spot: true` as no texts
        value = str(value).lower()
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_VALUE:
        raise ValueError(f"{name}: expected a text of at most {_MAX_VALUE} characters, not {shortened(value)}")
    return value


class PlacementField(BaseModel):
    """Which hosts a front may choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: Annotated[int | Literal["all"] | tuple[str, ...], BeforeValidator(_hosts)] = Field(
        1,
        description="On how many hosts it is at a time, `all` for each that suits, or a list of names. `replicas` are "
        "spread over them, at least one on each.",
    )
    requires: Annotated[dict[str, str | int], BeforeValidator(_requires)] = Field(
        default_factory=dict,
        description="What a host must have: `gpu.name`, words of its GPUs' name such as H100; `gpu.memory`, the size "
        "of each GPU; `label.NAME`, a label's value.",
    )

    @property
    def gpu_name(self) -> str | None:
        """Words that a GPU's name has to hold."""
        found = self.requires.get("gpu.name")
        return None if found is None else str(found)

    @property
    def gpu_memory(self) -> int | None:
        """The least size of a GPU, in bytes."""
        found = self.requires.get("gpu.memory")
        return None if found is None else int(found)

    @property
    def labels(self) -> dict[str, str]:
        """Labels that a host must have, with their values."""
        prefix = LABEL
        return {
            name.removeprefix(prefix): str(value) for name, value in self.requires.items() if name.startswith(prefix)
        }


def placement_field(value: Any) -> Any:
    """A mapping, or what is wrong."""
    if isinstance(value, dict | PlacementField):
        return value
    raise ValueError(f"expected `hosts`, `requires` or both, such as placement: {{hosts: all}}, not {shortened(value)}")
