"""samples/calls.yaml: the calls that must work, by which a plugin is tested and an update of it proven.

`plugins/README.md` describes the file for authors; `expectations` compares an answer with what is expected.
"""

import json
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from urllib3.filepost import encode_multipart_formdata

from orchestrator.errors import ManifestError, OrchestratorError
from orchestrator.formatting import format_size
from orchestrator.loader.yaml_file import explained, read_yaml, shortened
from orchestrator.settings import Size

SAMPLES_FOLDER: Final = "samples"
CALLS_FILE: Final = "samples/calls.yaml"
_MAX_CALLS: Final = 100
_MAX_FILES_BYTES: Final = 64 * 1024**2
"""Of one call's files together: they are in memory while it is made."""


_ROUNDING: Final = 1e-12
"""Of the value: 2.1 - 2 is a little more than 0.1."""
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


class SamplesError(OrchestratorError):
    """A samples/calls.yaml, or a file of its calls, that cannot be used; the text says where and what was expected."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _tolerance(value: Any) -> Any:
    if isinstance(value, Tolerance):
        return value
    number = value.removesuffix("%") if isinstance(value, str) and value.endswith("%") else value
    try:
        amount = -1.0 if isinstance(number, bool) else float(number)
    except (TypeError, ValueError):
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise ValueError(
            f"expected a number, such as 0.01, or a share of the value, such as 2%, not {shortened(value)}"
        )
    return Tolerance(absolute=amount) if number is value else Tolerance(relative=amount / 100)


class Tolerance(_Strict):
    """By how much a number may differ: `absolute`, or `relative` to the expected one."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, expected: float, found: float) -> bool:
        if expected == found:
            return True
        try:
            near = max(self.absolute, abs(expected) * self.relative)
            return near > 0 and abs(found - expected) <= near + _ROUNDING * max(abs(expected), abs(found))
        except OverflowError:  # an integer that no float can be
            return False


class ExpectedFile(_Strict):
    """A file that the call gives."""

    media_type: str | None = Field(None, description="Such as image/png.")
    min_size: Size | None = Field(None, description="Bytes, or a size such as 10KiB.")
    max_size: Size | None = Field(None, description="Bytes, or a size such as 10KiB.")


class Expectation(_Strict):
    """What the answer to a call must be. Everything that is set must hold."""

    status: Literal[200, 400, 413, 415, 422] = Field(200, description="HTTP status: 200, or that of a refused call.")
    equals: Any = Field(None, description="The result, whole. `equals: null` expects null.")
    contains: Any = Field(
        None,
        description="A part of the result: a text that occurs in one of its texts, fields that it has, items of it. Of "
        "a refused call: a text that occurs in the error.",
    )
    tolerance: Annotated[Tolerance, BeforeValidator(_tolerance, json_schema_input_type=float | str)] | None = Field(
        None, description="By how much numbers may differ: 0.01, or 2% of the expected one."
    )
    min_items: int | None = Field(None, ge=0, description="Items that the result has at least.")
    files: tuple[ExpectedFile, ...] | None = Field(None, description="The files of the result, all, in their order.")

    @property
    def whole(self) -> bool:
        """Whether `equals` is set."""
        return "equals" in self.model_fields_set

    @model_validator(mode="after")
    def _fits_its_status(self) -> "Expectation":
        beside = self.model_fields_set - {"status", "contains"}
        if self.status != 200 and beside:
            raise ValueError(f"expected no {min(beside)} beside status {self.status}: a refused call has no result")
        if self.status != 200 and not isinstance(self.contains, str | None):
            raise ValueError("expected a text under `contains` beside the status of a refused call")
        if self.tolerance is not None and not self.model_fields_set & {"equals", "contains"}:
            raise ValueError("expected `equals` or `contains` beside `tolerance`")
        return self


def _file(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError(f"expected the name of a file in {SAMPLES_FOLDER}/, not {shortened(value)}")
    return value


_File = Annotated[str, AfterValidator(_file)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"expected a value that JSON has (a date needs quotes), not {shortened(value)}") from None
    return value


class SampleCall(_Strict):
    """One call, as its author wrote it."""

    tool: _Name
    arguments: dict[_Name, Annotated[Any, AfterValidator(_json)]] = Field(default_factory=dict)
    files: dict[_Name, _File | tuple[_File, ...]] = Field(
        default_factory=dict, description="Parameter → a file in samples/, or a list of them."
    )
    needs: Literal["gpu"] | None = Field(None, description="`gpu`: the call is not made where the plugin has none.")
    expect: Expectation = Expectation()

    @field_validator("arguments", "files", "expect", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value  # `files:` with nothing behind it

    @model_validator(mode="after")
    def _sent_once(self) -> "SampleCall":
        if twice := sorted(self.arguments.keys() & self.files.keys()):
            raise ValueError(f"{twice[0]} stands under `arguments` and under `files`")
        return self

    def named_files(self) -> Iterator[tuple[str, str]]:
        """Parameter and name of each file."""
        for parameter, names in self.files.items():
            for name in (names,) if isinstance(names, str) else names:
                yield parameter, name


@dataclass(frozen=True, slots=True)
class Sample:
    """A call and its place: `number` counts from 1, `folder` is the plugin's."""

    call: SampleCall
    number: int
    line: int
    folder: Path

    @property
    def where(self) -> str:
        return f"call {self.number} of {CALLS_FILE} ({self.call.tool}, line {self.line})"

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Parameter and path of each file."""
        for parameter, name in self.call.named_files():
            yield parameter, self.folder / SAMPLES_FOLDER / name

    def files(self) -> dict[str, Path | list[Path]]:
        """By parameter, the path of its file, or of each where the call has a list of them."""
        found = {name: [path for parameter, path in self.paths() if parameter == name] for name in self.call.files}
        return {name: each[0] if isinstance(self.call.files[name], str) else each for name, each in found.items()}

    def check_files(self) -> None:
        """Raises `SamplesError` where a file is not there, or is not what it stands for."""
        size = 0
        for _, path in self.paths():
            name = f"{SAMPLES_FOLDER}/{path.relative_to(self.folder / SAMPLES_FOLDER)}"
            try:
                with path.open("rb") as file:
                    head = file.read(len(_LFS_POINTER))
                size += path.stat().st_size
            except OSError as error:
                raise SamplesError(
                    f"{self.where}: {name} cannot be read on this host: {error.strerror}. Put it there, or remove the "
                    "call."
                ) from None
            if head.startswith(_LFS_POINTER):
                raise SamplesError(f"{self.where}: {name} is a Git LFS pointer and not the file; run `git lfs pull`.")
        if size > _MAX_FILES_BYTES:
            raise SamplesError(
                f"{self.where}: its files have {format_size(size)} together; expected at most "
                f"{format_size(_MAX_FILES_BYTES)}. Use smaller samples."
            )

    def body(self) -> tuple[str, bytes]:
        """Content type and body of the request: JSON, or multipart where there are files. Raises `SamplesError`."""
        if not self.call.files:
            return "application/json", json.dumps(self.call.arguments, ensure_ascii=False).encode()
        self.check_files()
        # As from any form: a text goes as it is, everything else as JSON.
        fields: list[Any] = [
            (name, (None, (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode(), None))
            for name, value in self.call.arguments.items()
        ]
        try:
            for parameter, path in self.paths():
                media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                fields.append((parameter, (path.name, path.read_bytes(), media_type)))
        except OSError as error:
            raise SamplesError(f"{self.where}: {path.name} cannot be read: {error.strerror}.") from None
        body, content_type = encode_multipart_formdata(fields)
        return content_type, body


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """The calls of the plugin in `folder`; none where it has no samples/calls.yaml. Raises `SamplesError`."""
    label, path = f"{folder.name}/{CALLS_FILE}", folder / CALLS_FILE
    if not path.exists():
        return ()
    try:
        found = read_yaml(path, label)
    except ManifestError as error:
        raise SamplesError(str(error)) from None
    if found.content is None:
        return ()
    if not isinstance(found.content, list):
        raise SamplesError(
            f"{label}: expected a list of calls, each beginning with `- tool:`, not {_kind(found.content)}"
        )
    if len(found.content) > _MAX_CALLS:
        raise SamplesError(f"{label}: expected at most {_MAX_CALLS} calls, not {len(found.content)}")
    items = zip(found.content, found.item_lines, strict=True)
    return tuple(
        Sample(_call(item, f"{label}, line {line}"), at, line, folder) for at, (item, line) in enumerate(items, 1)
    )


def _call(item: Any, label: str) -> SampleCall:
    if not isinstance(item, Mapping):
        raise SamplesError(f"{label}: expected a call such as `tool: read_text`, not {_kind(item)}")
    try:
        return SampleCall.model_validate(item)
    except ValidationError as error:
        raise SamplesError(f"{label}: {explained(error, 'call', {})}") from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
