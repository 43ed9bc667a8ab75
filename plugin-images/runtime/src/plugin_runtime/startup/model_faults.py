"""What an exception says about the plugin's models: which one was being read, and whether that is missing or broken."""

# Which one is found in the calls that the exception passed. Not by an audit hook, which would see what is opened: none
# can be removed again, and one in Python makes every call of `id` eight times as slow for as long as the plugin lives.
# Nor would it see what ONNX Runtime or safetensors open, in C++ and Rust.

from __future__ import annotations

import io
import os
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.authoring import last_model
from plugin_runtime.startup.model_formats import judge, suffix_of
from plugin_runtime.startup.model_structure import onnx_external_data
from plugin_runtime.tools.plugin_errors import links, message_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import FrameType

MAX_FRAMES = 500
MAX_LOCALS = 500
MAX_PATH = 4096

# Signs are looked for in `Type: message`; they are compiled at their first use, which most starts never come to.
BROKEN_MODEL = r"PytorchStreamReader failed|SafetensorError|ONNXRuntimeError.*(INVALID_PROTOBUF|INVALID_GRAPH)"
"""Only a model can be meant."""
BROKEN_FILE = (
    r"EOFError: Ran out of input|pickle data was truncated|pickle exhausted before end of frame"
    r"|EOF: reading array data|unexpected EOF, expected \d+ more bytes"
    r"|Compressed file ended before the end-of-stream marker|incomplete or truncated stream|CRC check failed"
    r"|BadZipFile: File is not a zip file|truncated file: eof"
)
"""Some file is meant: a model where one was in hand."""
READERS = frozenset({"pickle", "gzip", "bz2", "lzma", "_compression", "zipfile"})
"""Modules of Python whose EOFError says that a file ended too early."""
READ_ERRORS = frozenset(
    {
        "BadGzipFile",
        "BadZipFile",
        "EOFError",
        "JSONDecodeError",
        "LZMAError",
        "SafetensorError",
        "UnicodeDecodeError",
        "UnpicklingError",
    }
)
"""Types that come of reading, whoever raises them."""


class ModelFault(NamedTuple):
    """The parts of a sentence. `missing`: else it is broken."""

    missing: bool
    what: str
    advice: str
    verb: str


class ModelRead(NamedTuple):
    """A file that a call had in hand; `by` is that call's module. "" where its path was only the last to be given."""

    model: str
    path: str
    by: str

    def __str__(self) -> str:
        """As messages name it: no folder but the model's own."""
        name = os.path.basename(self.path)  # noqa: PTH119 - a string
        return f"model {self.model!r} ({name})"


def find_model_fault(error: BaseException, models: Mapping[str, str]) -> ModelFault | None:
    """None where the exception does not say that a model is missing or broken."""
    if not models:
        return None
    absent = _absent(error, models)
    if absent is not None:
        return absent
    reads = [read for read in models_read(error, models) if read.by]
    for read in reads:
        fault = _fault_of_file(read)
        if fault is not None:
            return fault
    for link in links(error):
        text = f"{type(link).__name__}: {message_of(link)}".strip()
        said = text.partition("\n")[0].removesuffix(":")
        if reads and (re.search(f"{BROKEN_MODEL}|{BROKEN_FILE}", text) or _ended_early(link)):
            what = f"{_any_of(reads)} is broken: {said}"
            return ModelFault(missing=False, what=what, advice="fetch it again", verb="read by")
        if re.search(BROKEN_MODEL, text):
            advice = f"fetch it again (declared: {', '.join(models)})"
            return ModelFault(missing=False, what=f"a model file is broken: {said}", advice=advice, verb="read by")
    return None


def being_read(error: BaseException, models: Mapping[str, str], own: str) -> str:
    """`, reading model 'a' (a.pkl)`, to follow what was raised; empty where nothing was being read. `own`: the plugin's
    package, whose calls have models in hand whatever they do.
    """
    reads = models_read(error, models)
    if not reads:
        return ""
    if all(read.by.partition(".")[0] in (own, "") for read in reads) and not any(
        type(link).__name__ in READ_ERRORS for link in links(error)
    ):
        return ""
    return f", reading {_any_of(reads)}" if reads[0].by else f"; {reads[0]} was the last that was asked for"


def models_read(error: BaseException, models: Mapping[str, str]) -> Sequence[ModelRead]:
    """The model in hand where the error was raised, or nearest to there; several where one call had several. Else the
    model that `model_path` gave last; empty where it gave none.
    """
    for link in reversed(list(links(error))):
        for frame in _innermost_first(link):
            module = str(frame.f_globals.get("__name__", ""))
            if module.startswith("plugin_runtime."):
                continue  # it knows them all
            found = dict.fromkeys(
                ModelRead(name, path, module)
                for path in _paths(frame)
                for name, model in models.items()
                if path == model or path.startswith(f"{model}/")
            )
            if found:
                return [a for a in found if not any(b.path.startswith(f"{a.path}/") for b in found)]
    name = last_model()
    return [ModelRead(name, models[name], "")] if name in models else []


def _innermost_first(error: BaseException) -> Iterator[FrameType]:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    yield from reversed(frames[-MAX_FRAMES:])


def _paths(frame: FrameType) -> Iterator[str]:
    """Of the local variables that are paths or open files."""
    for value in list(frame.f_locals.values())[:MAX_LOCALS]:
        try:
            path = getattr(value, "name", None) if isinstance(value, io.IOBase) else value
            text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
        except BaseException:  # noqa: BLE001, S112 - code of a foreign class
            continue
        if isinstance(text, str) and len(text) <= MAX_PATH:
            yield text


def _absent(error: BaseException, models: Mapping[str, str]) -> ModelFault | None:
    for link in links(error):
        if not isinstance(link, (FileNotFoundError, PermissionError)) or link.filename is None:
            continue
        path = os.fsdecode(link.filename) if isinstance(link.filename, (str, bytes, os.PathLike)) else ""
        for name, model in models.items():
            if path == model:
                what = f"the file of model {name!r}"
            elif path.startswith(f"{model}/"):
                what = f"the file {path.removeprefix(f'{model}/')} of model {name!r}"
            else:
                continue
            if isinstance(link, PermissionError):
                advice = "give everybody the right to read it, with `chmod -R a+rX`"
                return ModelFault(missing=True, what=f"{what} may not be read", advice=advice, verb="opened by")
            advice = "put it where plugin.yaml's `models` names it"
            return ModelFault(missing=True, what=f"{what} is missing", advice=advice, verb="opened by")
    return None


def _fault_of_file(read: ModelRead) -> ModelFault | None:
    """What is certainly wrong with the file, though the checks before let it through, which cannot know how a plugin
    uses it: such as a pointer beside other weights, or a graph alone.
    """
    try:
        with open(read.path, "rb") as stream:  # noqa: PTH123 - a string
            size = os.fstat(stream.fileno()).st_size
            fault = judge(read.path, stream, size, alone=False)
            needed = onnx_external_data(stream, size) if suffix_of(read.path) == ".onnx" and fault is None else set()
    except OSError:  # a folder, or gone
        return None
    if fault is not None:
        return ModelFault(missing=False, what=f"{read} {fault}", advice="then restart the plugin", verb="read by")
    folder = os.path.dirname(read.path)  # noqa: PTH120 - a string
    absent = sorted(name for name in needed if not os.path.exists(os.path.join(folder, name)))  # noqa: PTH110, PTH118
    if not absent:
        return None
    what = f"{read} has its weights in {', '.join(absent)}, which the container does not have beside it"
    return ModelFault(missing=True, what=what, advice="declare the folder that has both as the model", verb="read by")


def _ended_early(error: BaseException) -> bool:
    """Whether a file did, for which EOFError need not have a word. pickle in Python, which joblib uses, misses bytes of
    a number as `struct.error`, and a single one as IndexError.
    """
    may = isinstance(error, (EOFError, IndexError, struct.error))
    innermost = next(_innermost_first(error), None) if may else None
    return innermost is not None and innermost.f_globals.get("__name__") in READERS


def _any_of(reads: Iterable[ModelRead]) -> str:
    return " or ".join(map(str, reads))
