"""What a plugin class is written with: `tool`, `InvalidInput`, `Progress`, `Upload`, `File`, models and secrets."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # not typing's: importing that costs the supervisor and the health check a megabyte and 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, BinaryIO, TypeVar, overload

    F = TypeVar("F", bound=Callable[..., Any])

TOOL_MARK = "__plugin_tool__"
SECRETS_DIR = "/run/secrets"
MAX_MEDIA_TYPE = 200  # characters
MEDIA_TYPE_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&^_.+-")

_last_model: list[str] = []


class InvalidInput(ValueError):  # noqa: N818 - part of the public API; it is an answer to the caller more than an error
    """Raised by a tool whose arguments have the right types and still make no sense.

    The caller gets 422 with the message; the plugin goes on and no error is counted. A batched tool returns one in the
    place of the item that it refuses; where it raises one, all callers of the batch get it.
    """


class Progress:
    """How far a generator tool is. `fraction` is clamped to 0..1; `message` is for people."""

    __slots__ = ("fraction", "message")

    def __init__(self, fraction: float, message: str = "") -> None:
        self.fraction = min(1.0, max(0.0, float(fraction)))
        self.message = str(message)

    def __repr__(self) -> str:
        return f"Progress({self.fraction!r}, {self.message!r})"


class Upload:
    """A parameter's upload, on disk until the call ends.

    `filename` (of a path its last component) and `content_type` are the caller's, "" where it sent none.
    """

    __slots__ = ("content_type", "filename", "path", "size")

    def __init__(self, path: Path, filename: str = "", content_type: str = "") -> None:
        self.path = path
        self.filename = filename
        self.content_type = content_type
        self.size = path.stat().st_size

    def open(self) -> BinaryIO:
        """The file, to be read."""
        return self.path.open("rb")

    def read_bytes(self) -> bytes:
        """The whole of it."""
        return self.path.read_bytes()

    def __repr__(self) -> str:
        return f"Upload({self.filename!r}, {self.content_type!r}, {self.size} bytes)"


class File:
    """A file of a result: `content` is its bytes, or the path of a file that the plugin has written.

    It may stand anywhere in what a tool returns or yields. Without `media_type` its name and its first bytes say what
    it is; without `name` it has that of its path, or of the key under which it stands. A path is read after the tool
    has returned, or when it is yielded: the file has to be complete, and in the scratch or temporary folder.
    """

    __slots__ = ("content", "media_type", "name")

    def __init__(
        self,
        content: bytes | bytearray | memoryview | str | os.PathLike[str],
        media_type: str | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(content, (bytes, bytearray, memoryview, str, os.PathLike)):
            raise TypeError(f"File takes bytes, or the path of a file, not {type(content).__name__}")
        if media_type is not None and not is_media_type(media_type):
            raise ValueError(f"{media_type!r} is no media type, such as image/png")
        self.content: bytes | bytearray | memoryview | str = (
            content if isinstance(content, (bytes, bytearray, memoryview)) else os.fsdecode(content)
        )
        self.media_type = media_type
        self.name = name

    def read_bytes(self) -> bytes:
        """The whole of it."""
        if not isinstance(self.content, str):
            return bytes(self.content)
        with open(self.content, "rb") as file:  # noqa: PTH123 - see TYPE_CHECKING
            return file.read()

    def __repr__(self) -> str:
        what = repr(self.content) if isinstance(self.content, str) else f"{len(self.content)} bytes"
        return f"File({what}, {self.media_type!r}, {self.name!r})"


def is_media_type(text: object) -> bool:
    """`type/subtype`, perhaps with parameters, as it can stand in a header."""
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or len(text) > MAX_MEDIA_TYPE:
        return False
    kind, slash, subtype = text.partition(";")[0].strip().partition("/")
    return bool(slash) and MEDIA_TYPE_CHARACTERS.issuperset(kind + subtype) and bool(kind) and bool(subtype)


class ToolOptions:
    """What `tool` was given, as it stands in the author's code: it is judged when the plugin starts."""

    __slots__ = ("batch", "idempotent", "wait")

    def __init__(self, batch: object, wait: object, idempotent: object) -> None:
        self.batch = batch
        self.wait = wait
        self.idempotent = idempotent


if TYPE_CHECKING:

    @overload
    def tool(method: F, /) -> F: ...

    @overload
    def tool(*, batch: int | None = None, wait: str | None = None, idempotent: bool = False) -> Callable[[F], F]: ...


def tool(
    method: F | None = None, /, *, batch: int | None = None, wait: str | None = None, idempotent: bool = False
) -> F | Callable[[F], F]:
    """Mark a method as a tool that callers run.

    The input schema comes from its type hints, the description from the first paragraph of its docstring. It may be a
    plain method, `async`, a generator or an async generator. What a generator yields is streamed to the caller: a
    `Progress` as progress, anything else as an item; its return value is dropped. For cancelled runs see
    `plugin_runtime.cancelled`.

    `batch`: each caller sends one item for the first parameter, a list, and gets one result; the tool is called with
    up to so many items, whose other arguments are equal, and returns a list of as many results. An item waits for at
    most `wait` ("5ms" by default) for others. `idempotent`: a run that its instance did not survive may be made again.
    """
    options = ToolOptions(batch, wait, idempotent)

    def mark(method: F) -> F:
        setattr(method, TOOL_MARK, options)
        return method

    return mark if method is None else mark(method)


def options_of(*functions: object) -> ToolOptions | None:
    """Those of the first that is marked as a tool; None where none is."""
    # By their type: an object that makes up its attributes, such as a mock, is no tool.
    found = [getattr(function, TOOL_MARK, None) for function in functions]
    return next((options for options in found if isinstance(options, ToolOptions)), None)


def models() -> dict[str, Path]:
    """Every model of the manifest: name → the mounted file or folder."""
    import json  # noqa: PLC0415 - see TYPE_CHECKING
    from pathlib import Path  # noqa: PLC0415 - see TYPE_CHECKING

    return {name: Path(path) for name, path in json.loads(os.environ.get("PLUGIN_MODELS") or "{}").items()}


def model_path(name: str) -> Path:
    """The mounted file or folder of one model. Raises LookupError where the manifest has no model of that name."""
    known = models()
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise LookupError(f"plugin.yaml declares no model {name!r} (declared: {names}); add it under `models`")
    _last_model[:] = [name]
    return known[name]


def last_model() -> str:
    """The model that `model_path` gave last; "" before the first."""
    return _last_model[0] if _last_model else ""


def secret(name: str) -> str:
    """The value of one secret, without the line end that editors add. Raises LookupError where the manifest has no
    secret of that name.

    A secret that the plugin prints appears in its log: the orchestrator does not know which text is secret.
    """
    path = os.path.join(os.environ.get("PLUGIN_SECRETS_DIR", SECRETS_DIR), name)  # noqa: PTH118 - see TYPE_CHECKING
    if not name.isidentifier() or not os.path.isfile(path):  # noqa: PTH113 - as above
        raise LookupError(f"plugin.yaml declares no secret {name!r}; add it under `secrets`")
    with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - as above
        return file.read().removesuffix("\n").removesuffix("\r")
