"""From a result envelope to what a client is answered. Pure."""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from orchestrator.formatting import format_size
from orchestrator.mcp.backend import MAX_CONTENT, StoredContent
from orchestrator.mcp.schemas import structured

META: Final = "plugin-orchestrator"
"""The prefix of our members of `_meta`."""
_FILE_PATH: Final = re.compile(r"(?:.*)/v1/runs/([0-9a-f]{32})/files/([^/]+)")
_SHOWN: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""Pictures that models take; others are links."""
_UNKNOWN: Final = frozenset({"UnknownPlugin", "UnknownTool"})


def is_unknown(envelope: Mapping[str, Any]) -> bool:
    """Whether there was no such tool."""
    return not envelope["ok"] and envelope.get("error_type") in _UNKNOWN


def unknown_tool(name: str) -> str:
    return f"There is no tool {name[:200]!r}. tools/list has all tools; it may have changed since you read it."


def is_inline(file: Mapping[str, Any]) -> bool:
    """Whether a file of a result is content of the answer and no link."""
    media_type = str(file["media_type"]).partition(";")[0]
    return file["size"] <= MAX_CONTENT and (media_type in _SHOWN or media_type.startswith("audio/"))


def success(
    envelope: Mapping[str, Any], about: Mapping[str, Any], contents: Mapping[str, StoredContent], base_url: str
) -> dict[str, Any]:
    """The answer to a run that ended well. `contents`: its inline files, by name."""
    text = _text(envelope["result"])
    if len(text) > MAX_CONTENT:
        return too_large(envelope)
    content = [{"type": "text", "text": text}]
    content += (_file(file, contents.get(str(file["file"])), base_url) for file in envelope.get("files") or ())
    return {
        "content": content,
        "structuredContent": structured(envelope["result"], about),
        "isError": False,
        "resultType": "complete",
        "_meta": _meta(envelope),
    }


def failure(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a run that ended badly, or was refused: why, with what names it, and what can be done."""
    sentence = str(envelope.get("error") or "The run gave no result.")
    raised = envelope.get("error_type")
    by_tool = envelope.get("source") == "plugin" and envelope.get("reason_code") == "TOOL_ERROR"
    if by_tool and raised and str(raised) not in sentence:
        sentence = f"{raised}: {sentence}"  # of many an exception the message says little without its type
    meta = _meta(envelope)
    named = "; ".join(f"{name.partition('/')[2]}: {value}" for name, value in meta.items())
    text = f"{sentence}\n({named})" if named else sentence
    return {"content": [{"type": "text", "text": text}], "isError": True, "resultType": "complete", "_meta": meta}


def too_large(envelope: Mapping[str, Any]) -> dict[str, Any]:
    sentence = (
        f"The run ended well, and its result is over the {format_size(MAX_CONTENT)} that an MCP answer may have. Ask "
        "for less, or call the tool over the HTTP API."
    )
    return failure({**envelope, "error": sentence, "error_type": "TooLarge"})


def resource(uri: str, file: StoredContent) -> dict[str, Any] | None:
    """The content of a file, for `resources/read`; None where it is too large."""
    if file.content is None:
        return None
    about = {"uri": uri, "mimeType": file.media_type}
    if file.media_type.startswith("text/") or file.media_type.partition(";")[0] == "application/json":
        try:
            return {**about, "text": file.content.decode()}
        except UnicodeDecodeError:
            pass
    return {**about, "blob": base64.b64encode(file.content).decode()}


def file_named(uri: str) -> tuple[str, str] | None:
    """The run and the name of the file that a link of ours leads to, by whatever name its host is known."""
    try:
        found = _FILE_PATH.fullmatch(urlsplit(uri).path)
    except ValueError:
        return None
    return None if found is None else (found[1], unquote(found[2]))


def _file(file: Mapping[str, Any], stored: StoredContent | None, base_url: str) -> dict[str, Any]:
    if stored is not None and stored.content is not None:
        kind = "audio" if file["media_type"].startswith("audio/") else "image"
        data = base64.b64encode(stored.content).decode()
        return {"type": kind, "data": data, "mimeType": file["media_type"]}
    return {
        "type": "resource_link",
        "uri": base_url + str(file["url"]),
        "name": file["file"],
        "mimeType": file["media_type"],
        "size": file["size"],
    }


def _text(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()


def _meta(envelope: Mapping[str, Any]) -> dict[str, Any]:
    names: Iterable[str] = ("reason_code", "error_type", "retry_after_seconds", "run_id")
    return {f"{META}/{name}": envelope[name] for name in names if envelope.get(name) is not None}
