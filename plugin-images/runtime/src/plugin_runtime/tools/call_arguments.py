"""Reads the body of a call, by its media type, into the arguments of its tool."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from plugin_runtime.tools.arguments import from_form, from_json
from plugin_runtime.tools.multipart import read_form
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.uploads import suffix_of_media_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugin_runtime.http.head import RequestHead
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.tools.uploads import UploadFolder

MAX_JSON = 32 * 1024 * 1024
MAX_QUERY_FIELDS = 100


def read_arguments(tool: Tool, head: RequestHead, body: Iterator[bytes], folder: UploadFolder) -> dict[str, Any]:
    """Keyword arguments for the tool. Raises Refused."""
    content_type = head.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json":
        if head.query:
            raise Refused("invalid_arguments", "with a JSON body all arguments are in it, and none in the query string")
        return from_json(tool, _read_json(head, body))
    texts = _query(head.query)
    if media_type == "multipart/form-data":
        form = read_form(tool, folder, content_type, body)
        for name, values in form.texts.items():
            texts.setdefault(name, []).extend(values)
        return from_form(tool, texts, form.uploads)
    if head.length == 0 and not (media_type and len(tool.uploads) == 1):
        return from_form(tool, texts, {})
    parameter = _only_upload(tool, media_type)
    kind = tool.parameters[parameter].upload or "bytes"
    sink = folder.sink(kind, parameter, f"upload{suffix_of_media_type(media_type)}")
    for data in body:
        sink.write(data)
    return from_form(tool, texts, {parameter: sink.finish()})


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
