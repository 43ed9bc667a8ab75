"""Whether a model, a file or a folder, is there and can be what its files' names say."""

# The orchestrator imports this too, to check on the host before anything is built. So it loads no third-party module,
# and its sentences name the model and the file but never the folder, which would be a path of the host.

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.startup.failures import MODEL_CORRUPT, MODEL_MISSING, Failure
from plugin_runtime.startup.model_formats import LFS_POINTER, judge, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MAX_FILES = 10_000
"""Of a folder that are checked."""
MAX_INDEX = 64 * 1024**2  # bytes; the list of a hundred thousand tensors has ten millions
SHOWN_NAMES = 3
DECLARED = "put it where plugin.yaml's `models` names it"

# A repository often has the same weights in several of these formats, of which a plugin uses one.
WEIGHTS = frozenset(
    {
        ".bin",
        ".ckpt",
        ".gguf",
        ".h5",
        ".keras",
        ".msgpack",
        ".onnx",
        ".ot",
        ".pb",
        ".pt",
        ".pth",
        ".safetensors",
        ".tflite",
    }
)
# And pictures or sounds of its page, which no plugin needs.
MEDIA = frozenset({".flac", ".gif", ".jpeg", ".jpg", ".mp3", ".mp4", ".pdf", ".png", ".wav", ".webp"})
NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"})


class ModelCheck(NamedTuple):
    """`detail` is for people. `failure` is None where nothing speaks against the model."""

    detail: str
    failure: Failure | None = None


class ModelFile(NamedTuple):
    """A file below a model's folder. `relative` has `/` between its parts; `link`: it is a symbolic link."""

    relative: str
    path: str
    link: bool


def check_model(name: str, path: str | os.PathLike[str], missing: str = DECLARED) -> ModelCheck:
    """Open the files of the model `name` and judge each by its name. The failure is MODEL_MISSING or MODEL_CORRUPT.
    `missing`: what to do where nothing is at `path`.
    """
    path = os.fspath(path)
    shown = os.path.basename(path) or name  # noqa: PTH119 - this module works on strings
    try:
        # Before anything is opened, which waits for ever on a named pipe.
        mode = os.stat(path).st_mode  # noqa: PTH116 - as above
        if stat.S_ISDIR(mode):
            return _check_folder(name, path, shown, missing)
        if not stat.S_ISREG(mode):
            return _missing(f"{_called(name, shown)} is neither a file nor a folder; name another in plugin.yaml")
        with open(path, "rb") as stream:  # noqa: PTH123 - as above
            fault = judge(shown, stream, os.fstat(stream.fileno()).st_size)
    except (FileNotFoundError, NotADirectoryError):
        return _missing(f"{_called(name, shown)} is missing; {missing}")
    except OSError as error:
        return _missing(unreadable(_called(name, shown), error))
    return _corrupt(f"{_called(name, shown)} {fault}") if fault else ModelCheck("fits what its name says")


def walk(folder: str) -> Iterator[ModelFile]:
    """The files below a model's folder, each folder's in the order of their names, without hidden ones; at most
    `MAX_FILES`. Raises OSError for a folder that cannot be read.
    """
    left = MAX_FILES
    folders = [""]
    while folders:
        below = folders.pop()
        inner = []
        with os.scandir(os.path.join(folder, below)) as entries:  # noqa: PTH118 - as above
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.name.startswith("."):  # of git, or of a download's own
                continue
            relative = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                inner.append(relative)
                continue
            if left == 0:
                return
            left -= 1
            yield ModelFile(relative, entry.path, entry.is_symlink())
        folders += reversed(inner)


def unreadable(what: str, error: OSError) -> str:
    """A sentence about `what`, which nothing says is missing."""
    if isinstance(error, PermissionError):
        return (
            f"{what} may not be read by user {os.geteuid()}; give everybody that right with `chmod -R a+rX` on it, and"
            " `chmod a+x` on the folders above it"
        )
    return f"{what} cannot be read: {error.strerror}; check its disk"


class _Contents:
    """What is known of a folder's files so far."""

    def __init__(self) -> None:
        self.count = 0
        self.pointers: list[str] = []
        self.indexes: list[ModelFile] = []
        self.incomplete: dict[str, list[str]] = {}
        """Of a file: those that belong to it and are not there."""
        self.weights: set[str] = set()
        """Suffixes of those that are whole."""

    def others_suffice(self, formats: Iterable[str]) -> bool:
        """Whether there are whole weights in another format than these, so that these may not be meant to be used."""
        return bool(self.weights.difference(formats))


def _check_folder(name: str, folder: str, shown: str, missing: str) -> ModelCheck:
    contents = _Contents()
    root = os.path.realpath(folder)
    try:
        for file in walk(folder):
            failure = _check_one(_called(name, f"{shown}/{file.relative}"), file, root, contents)
            if failure is not None:
                return failure
    except OSError as error:  # a folder; files are caught one by one
        where = os.path.relpath(error.filename, folder) if error.filename else "."
        return _missing(unreadable(_called(name, os.path.normpath(f"{shown}/{where}")), error))
    if contents.count == 0:
        return _missing(f"{_called(name, shown)} is an empty folder; {missing}")
    return _judge_together(name, shown, contents) or ModelCheck(_judged(contents.count))


def _judged(count: int) -> str:
    if count >= MAX_FILES:
        return f"its first {MAX_FILES} files fit what their names say"
    return "1 file that fits what its name says" if count == 1 else f"{count} files that fit what their names say"


def _check_one(called: str, file: ModelFile, root: str, contents: _Contents) -> ModelCheck | None:
    """Judge a file, as far as that needs none of the others. None if nothing speaks against it."""
    if file.link and (fault := _link_fault(file.path, root)):
        return _missing(f"{called} {fault}")
    try:
        info = os.stat(file.path)  # noqa: PTH116 - as above
        contents.count += 1
        if not stat.S_ISREG(info.st_mode):
            return None  # a link to another folder of it, or what nobody opens
        with open(file.path, "rb") as stream:  # noqa: PTH123 - as above
            fault = judge(file.relative, stream, info.st_size, alone=False)
            missing_data = _missing_data(file, stream, info.st_size) if fault is None else []
    except FileNotFoundError:
        return None  # removed meanwhile
    except OSError as error:
        return _missing(unreadable(called, error))
    if fault == LFS_POINTER:
        contents.pointers.append(file.relative)
    elif fault is not None and not (info.st_size == 0 and _may_be_empty(file)):
        return _corrupt(f"{called} {fault}")
    elif missing_data:
        contents.incomplete[file.relative] = missing_data
    elif suffix_of(file.relative) in WEIGHTS and os.path.basename(file.path) not in NO_WEIGHTS:  # noqa: PTH119 - as above
        contents.weights.add(suffix_of(file.relative))
    if _is_index(file.relative):
        contents.indexes.append(file)
    return None


def _link_fault(path: str, root: str) -> str | None:
    """A folder is mounted as it is, so its links must lead to the same file in the container as on the host."""
    there = "the container would not find it"
    if os.path.isabs(os.readlink(path)):  # noqa: PTH115, PTH117 - as above
        return f"is a link to an absolute path, where {there}; make it relative, or put the file itself there"
    target = os.path.realpath(path)
    if target != root and not target.startswith(f"{root}{os.sep}"):
        return (
            f"is a link out of the model's folder, where {there}; put the file itself there (`cp -RL` copies a folder"
            " with what its links lead to), or declare the folder that has both"
        )
    if not os.path.exists(target):  # noqa: PTH110 - as above
        return "is a link to a file that is not there; fetch that one too"
    return None


def _may_be_empty(file: ModelFile) -> bool:
    """A table of anything; or, beside its .xml, the weights of an OpenVINO model without constants."""
    if suffix_of(file.path) != ".bin":
        return False
    return "model" not in os.path.basename(file.path) or os.path.exists(f"{file.path[:-4]}.xml")  # noqa: PTH110, PTH119


def _missing_data(file: ModelFile, stream: BinaryIO, size: int) -> list[str]:
    """The files beside an ONNX model that have its weights, and are not there."""
    if suffix_of(file.relative) != ".onnx":
        return []
    from plugin_runtime.startup.model_structure import onnx_external_data  # noqa: PLC0415 - as all that reads ONNX

    return _not_there(file.path, onnx_external_data(stream, size))


def _is_index(relative: str) -> bool:
    """model.safetensors.index.json, or one of a variant: model.safetensors.index.fp16.json."""
    return relative.endswith(".json") and ".index." in os.path.basename(relative)  # noqa: PTH119 - as above


def _shards(index: ModelFile) -> set[str]:
    """The files that an index lists; empty where it lists none in the way of Hugging Face."""
    import json  # noqa: PLC0415 - few models have one

    try:
        if os.stat(index.path).st_size > MAX_INDEX:  # noqa: PTH116 - as above
            return set()
        with open(index.path, "rb") as stream:  # noqa: PTH123 - as above
            content = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return set()
    listed = content.get("weight_map") if isinstance(content, dict) else None
    return {shard for shard in listed.values() if isinstance(shard, str)} if isinstance(listed, dict) else set()


def _not_there(beside: str, names: Iterable[str]) -> list[str]:
    """Those of the files `names`, relative to the folder of the file `beside`, that do not exist."""
    folder = os.path.dirname(beside)  # noqa: PTH120 - as above
    # A name that leads elsewhere is not looked for: whether a file of the host exists is nobody's business.
    inner = [name for name in names if name and "\0" not in name and not os.path.isabs(name)]  # noqa: PTH117 - as above
    inner = [name for name in inner if ".." not in name.split("/")]
    return sorted(name for name in inner if not os.path.exists(os.path.join(folder, name)))  # noqa: PTH110, PTH118


def _judge_together(name: str, shown: str, contents: _Contents) -> ModelCheck | None:
    """What only the whole of a folder tells. None if nothing speaks against it."""
    for relative in contents.pointers:
        suffix = suffix_of(relative)
        if suffix not in WEIGHTS | MEDIA or not contents.others_suffice({suffix}):
            return _corrupt(f"{_called(name, f'{shown}/{relative}')} {LFS_POINTER}")
    for index in contents.indexes:
        shards = _shards(index)
        absent = _not_there(index.path, shards)
        unused = len(absent) == len(shards) and contents.others_suffice(map(suffix_of, shards))
        if absent and not unused:
            return _lacking(_called(name, f"{shown}/{index.relative}"), absent)
    if not contents.weights:
        for relative, absent in contents.incomplete.items():
            return _lacking(_called(name, f"{shown}/{relative}"), absent)
    return None


def _lacking(called: str, absent: list[str]) -> ModelCheck:
    more = f" and {len(absent) - SHOWN_NAMES} more" if len(absent) > SHOWN_NAMES else ""
    one = len(absent) == 1
    listed = f"{', '.join(absent[:SHOWN_NAMES])}{more}, which {'is' if one else 'are'} not there"
    return _missing(f"{called} needs {listed}; fetch {'it' if one else 'them'} too")


def _called(name: str, shown: str) -> str:
    return f"model {name!r} ({shown})"


def _missing(reason: str) -> ModelCheck:
    return ModelCheck(reason, Failure(MODEL_MISSING, reason))


def _corrupt(reason: str) -> ModelCheck:
    return ModelCheck(reason, Failure(MODEL_CORRUPT, reason))
