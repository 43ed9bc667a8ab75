"""multipart/form-data, parsed as it arrives: values into bounded memory, uploads into their sinks. The only module that
knows `python_multipart`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from plugin_runtime.tools.arguments import as_a_file
from plugin_runtime.tools.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from plugin_runtime.tools.parameters import Parameter
    from plugin_runtime.tools.toolset import Tool
    from plugin_runtime.tools.uploads import File, Sink, UploadFolder

MAX_PARTS = 100
MAX_HEADERS_OF_PART = 8 * 1024
MAX_VALUES = 32 * 1024 * 1024


class Form:
    """The form so far, by name: lists of values, and of uploads. The parser calls the `on_` methods."""

    def __init__(self, tool: Tool, folder: UploadFolder) -> None:
        self.texts: dict[str, list[str]] = {}
        self.uploads: dict[str, list[File]] = {}
        self._tool = tool
        self._folder = folder
        self._part_count = 0
        self._value_bytes = 0
        self._header_bytes = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._sink: Sink | None = None
        self._unsent: Parameter | None = None  # the upload parameter of a part without a file name and, so far, bytes
        self._text = bytearray()
        self.ended = False

    def on_part_begin(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_PARTS:
            raise Refused("too_large", f"the form has more than {MAX_PARTS} parts")
        self._headers = {}
        self._header_bytes = 0
        self._text = bytearray()
        self._sink = self._unsent = None

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def on_headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header  # noqa: PLC0415 - see read_form

        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise Refused("bad_request", "a part of the form has no `Content-Disposition: form-data; name=...`")
        self._name = options[b"name"].decode("utf-8", "replace")
        parameter = self._tool.parameters.get(self._name)
        if parameter is None:
            known = ", ".join(self._tool.parameters) or "none"
            text = f"no parameter named {self._name!r}; tool {self._tool.name} takes: {known}"
            raise Refused("invalid_arguments", text)
        if parameter.upload is None or not self._is_file(options):
            return
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        if name:
            self._sink = self._open(parameter, name)
        else:
            # A browser sends a file field that was left empty like this. What has bytes is a file all the same.
            self._unsent = parameter

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._unsent is not None and end > start:
            self._sink, self._unsent = self._open(self._unsent, ""), None
        if self._sink is not None:
            self._sink.write(data[start:end])
            return
        self._value_bytes += end - start
        if self._value_bytes > MAX_VALUES:
            raise Refused("too_large", f"the values of the form are over {MAX_VALUES} bytes")
        self._text += data[start:end]

    def on_part_end(self) -> None:
        if self._unsent is not None:
            return
        if self._sink is not None:
            self.uploads.setdefault(self._name, []).append(self._sink.finish())
            return
        try:
            text = self._text.decode("utf-8")
        except UnicodeDecodeError:
            parameter = self._tool.parameters[self._name]
            advice = f"; {as_a_file(self._name)}" if parameter.upload else ""
            text = f"parameter {self._name!r}: the value is no UTF-8 text{advice}"
            raise Refused("invalid_arguments", text) from None
        self.texts.setdefault(self._name, []).append(text)

    def on_end(self) -> None:
        self.ended = True

    def _is_file(self, options: Mapping[bytes, bytes]) -> bool:
        """Whether a part is a file, not the text of a field, such as the path that was meant to be read."""
        media_type = self._headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        return b"filename" in options or media_type not in (b"", b"text/plain")

    def _open(self, parameter: Parameter, file_name: str) -> Sink:
        if parameter.name in self.uploads and not parameter.takes_many:
            raise Refused("invalid_arguments", f"parameter {parameter.name!r} was sent twice; it takes one upload")
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        return self._folder.sink(parameter, file_name, content_type)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADERS_OF_PART:
            raise Refused("too_large", f"the headers of a part are over {MAX_HEADERS_OF_PART} bytes")


EXTENDED_NAME = re.compile(r"""filename\*\s*=\s*([\w.-]*)'[^']*'([^\s;"]+)""", re.IGNORECASE)  # RFC 8187


def name_of_raw_body(disposition: str) -> str:
    """The file name that the Content-Disposition of a request names, "" where it names none."""
    if not disposition:
        return ""
    extended = EXTENDED_NAME.search(disposition)
    if extended is not None:
        try:
            return unquote(extended[2], encoding=extended[1] or "utf-8", errors="replace")
        except LookupError:
            pass  # no encoding that there is
    from python_multipart.multipart import parse_options_header  # noqa: PLC0415 - see read_form

    return parse_options_header(disposition)[1].get(b"filename", b"").decode("utf-8", "replace")


def read_form(tool: Tool, folder: UploadFolder, content_type: str, body: Iterable[bytes]) -> Form:
    """Parse a whole body. Raises Refused."""
    from python_multipart.exceptions import FormParserError  # noqa: PLC0415 - costs every start 10 ms, and few need it
    from python_multipart.multipart import MultipartParser, parse_options_header  # noqa: PLC0415 - as above

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refused("bad_request", "the Content-Type multipart/form-data has no boundary")
    form = Form(tool, folder)
    callbacks: Any = {name: getattr(form, name) for name in dir(form) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)
        for data in body:
            parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise Refused("bad_request", f"the form is malformed: {error}") from None
    if not form.ended:
        raise Refused("bad_request", "the form ends without its closing boundary")
    return form
