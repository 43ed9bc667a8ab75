"""Uploads: base64 in MCP, whatever a plugin takes them as. Pure.

`bytes` parameters take base64 in JSON themselves. Those for a file on disk (`Path`, `Upload`) take multipart alone.
"""

import mimetypes
from collections.abc import Mapping
from typing import Any, Final

from plugin_runtime.tools.values import decode_base64

from orchestrator.client import Upload
from orchestrator.errors import OrchestratorError

_ON_DISK: Final = "path"
_BASE64: Final = "contentEncoding"
_FILE: Final = "contentMediaType"


class UploadError(OrchestratorError):
    """An argument is no base64."""


def in_base64(schema: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's input schema with files as base64 strings."""
    properties = schema.get("properties")
    names = _on_disk(about)
    if not names or not isinstance(properties, Mapping):
        return dict(schema)
    shown = {name: _encoded(each) if name in names else each for name, each in properties.items()}
    return {**schema, "properties": shown}


def decoded(arguments: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with files in place of their base64. Raises `UploadError`."""
    names = _on_disk(about)
    return {name: _upload(name, value) if name in names else value for name, value in arguments.items()}


def _on_disk(about: Mapping[str, Any]) -> frozenset[str]:
    uploads = about.get("uploads")
    if not isinstance(uploads, Mapping):
        return frozenset()
    return frozenset(name for name, kind in uploads.items() if kind == _ON_DISK)


def _encoded(schema: Any) -> Any:
    """Marks each schema of a file, wherever it is in that of a parameter: in a list, in a choice."""
    if isinstance(schema, list):
        return [_encoded(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {name: each if name == "default" else _encoded(each) for name, each in schema.items()}
    return {**inner, _BASE64: "base64"} if _FILE in schema else inner


def _upload(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_upload(f"{name}[{at}]", each) for at, each in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        content = decode_base64(value)
    except ValueError:  # also what is not ASCII
        raise UploadError(f"{name}: a file in base64 is expected, or a data URL.") from None
    media_type = value[5:].partition(";")[0] if value[:5].lower() == "data:" else ""
    return Upload(content, f"{name.partition('[')[0]}{mimetypes.guess_extension(media_type) or ''}", media_type)
