"""Reads the body of a call, by its media type, into the arguments of its tool."""

from __future__ import annotations

import traceback
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote_plus

from plugin_runtime.http.connection import Disconnected
from plugin_runtime.http.head import BadHead
from plugin_runtime.shared.processes import write_log
from plugin_runtime.tools.arguments import from_form, from_json
from plugin_runtime.tools.content_coding import decoded
from plugin_runtime.tools.multipart import name_of_raw_body, read_form
from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plugin_runtime.http.head import RequestHead
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.tools.uploads import UploadFolder

MAX_JSON = 32 * 1024 * 1024
MAX_QUERY_FIELDS = 100
MAX_FORM = 32 * 1024 * 1024
"""Bytes of a urlencoded form."""
FORM_START = 4096
"""Bytes of a body in which the name of a form's first field must end, if it is to be a form."""


def read_arguments(tool: Tool, head: RequestHead, body: Iterator[bytes], folder: UploadFolder) -> dict[str, Any]:
    """Keyword arguments for the tool. Raises Refused, also for a defect of ours, Disconnected or BadHead."""
    try:
        return _read(tool, head, body, folder)
    except (Refused, Disconnected, BadHead):
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it must not look like a worker that died, nor end the plugin
        write_log(f"the arguments of the tool {tool.name} cannot be read\n{traceback.format_exc()}")
        text = "a defect of the runtime while it read the arguments; the container's log has its traceback"
        raise Refused("defect", text) from None


def _read(tool: Tool, head: RequestHead, body: Iterator[bytes], folder: UploadFolder) -> dict[str, Any]:
    content_type = head.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if "content-encoding" in head.headers:
        body = decoded(body, head.headers["content-encoding"], folder.max_bytes)
        head = head._replace(length=None if head.length else head.length)  # that of the compressed body says nothing
    if media_type == "application/json" and not (head.query and head.length == 0):
        if head.query:
            raise Refused("invalid_arguments", "with a JSON body all arguments are in it, and none in the query string")
        return from_json(tool, _read_json(head, body))
    texts = _query(head.query)
    if media_type == "multipart/form-data":
        form = read_form(tool, folder, content_type, body)
        return from_form(tool, _together(texts, form.texts), form.uploads)
    if head.length == 0 and not (media_type and len(tool.uploads) == 1):
        return from_form(tool, texts, {})
    if media_type == "application/x-www-form-urlencoded":
        fields, body = _read_fields(tool, body)
        if fields is not None:
            return from_form(tool, _together(texts, fields), {})
    parameter = tool.parameters[_only_upload(tool, media_type)]
    sink = folder.sink(parameter, name_of_raw_body(head.headers.get("content-disposition", "")), content_type)
    for data in body:
        sink.write(data)
    return from_form(tool, texts, {parameter.name: [sink.finish()]})


def _together(texts: dict[str, list[str]], more: Mapping[str, list[str]]) -> dict[str, list[str]]:
    for name, values in more.items():
        texts.setdefault(name, []).extend(values)
    return texts


def _read_fields(tool: Tool, body: Iterator[bytes]) -> tuple[dict[str, list[str]] | None, Iterator[bytes]]:
    """The fields of a urlencoded form, or None and the body as it came: `curl --data-binary @photo.png` sends an upload
    as this type too. Raises Refused.
    """
    start = bytearray()
    may_be_upload = len(tool.uploads) == 1
    for data in body:
        start += data
        if len(start) > MAX_FORM or (may_be_upload and not _starts_with_a_field(tool, start)):
            if not may_be_upload:
                raise Refused("too_large", f"the form is over {MAX_FORM} bytes; send files as multipart/form-data")
            return None, chain([bytes(start)], body)
    fields = _fields(start)
    if may_be_upload:
        is_form = bool(fields) and set(fields or ()) <= set(tool.parameters)
        return (fields, body) if is_form else (None, iter([bytes(start)]))
    if start.startswith((b"{", b"[")):
        text = "the body is a form by its Content-Type, and looks like JSON; send Content-Type: application/json"
        raise Refused("unsupported_media_type", text)
    if fields is None:
        raise Refused("bad_request", f"the form is no UTF-8, or has more than {MAX_QUERY_FIELDS} fields")
    return fields, body


def _starts_with_a_field(tool: Tool, start: bytearray) -> bool:
    name, equals, _ = start[:FORM_START].partition(b"=")
    if not equals:
        return len(start) < FORM_START
    return unquote_plus(name.decode("latin-1")) in tool.parameters


def _fields(data: bytearray) -> dict[str, list[str]] | None:
    """None where it is no form."""
    try:
        return parse_qs(data.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
    except ValueError:
        return None


def _read_json(head: RequestHead, body: Iterator[bytes]) -> bytes:
    buffer, size = BytesIO(), head.length or 0
    if size <= MAX_JSON:
        for data in body:
            size = buffer.write(data) + buffer.tell() - len(data)
            if size > MAX_JSON:
                break
    if size > MAX_JSON:
        raise Refused("too_large", f"the JSON body is over {MAX_JSON} bytes; send files as multipart/form-data")
    return buffer.getvalue()


def _query(query: str) -> dict[str, list[str]]:
    if not query:
        return {}
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise Refused("bad_request", f"the query string is malformed: {error}") from None


def _only_upload(tool: Tool, media_type: str) -> str:
    uploads = list(tool.uploads)
    if len(uploads) == 1:
        return uploads[0]
    takes = f"has the uploads {', '.join(uploads)}" if uploads else "takes no upload"
    accepted = "multipart/form-data or application/json" if uploads else "application/json"
    got = f"a body of type {media_type}" if media_type else "a body without Content-Type"
    raise Refused("unsupported_media_type", f"got {got}, and tool {tool.name} {takes}; send {accepted}")
