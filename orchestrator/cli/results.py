"""Prints results as they arrive, with each file replaced by a text."""

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from orchestrator.cli.console import print_raw, show_json
from orchestrator.cli.file_output import DescribedFiles, SavedFiles
from orchestrator.cli.result_files import Parts, inline_file, may_be_part, texts_are_bytes
from orchestrator.client import ApiError, Client, Envelope, ResultFile, Tool
from orchestrator.client.files import Where, replaced_within

Files = SavedFiles | DescribedFiles


class ResultPrinter:
    """Prints a result, or the items of a stream as they come."""

    def __init__(
        self,
        *,
        stem: str,
        tool: Callable[[], Tool | None],
        files: Files | None = None,
        raw: bool = False,
        silent: bool = False,
    ) -> None:
        """`stem`: of the names of files that have none. `tool`: looks the tool up. `silent`: prints nothing."""
        self._stem = stem
        self._look_up = tool
        self._files = files
        self._raw = raw
        self._silent = silent
        self._count = 0
        self._in_parts = False
        self._items: list[Any] = []

    def item(self, data: Any) -> None:
        """One item of a streaming tool."""
        for shown in self._with_item(data):
            self._show(shown)

    def end(self, envelope: Envelope) -> Envelope:
        """The end, with the result if there were no items; the envelope as it is to be shown."""
        if self._count and envelope.get("result") is None:
            for shown in self._with_end():
                self._show(shown)
            return {**envelope, "result": self._items}
        result = self._with_result(envelope.get("result"))
        if not self._silent:
            self._print(result)
        return {**envelope, "result": result}

    @cached_property
    def _tool(self) -> Tool | None:
        return self._look_up()

    @cached_property
    def _texts_are_bytes(self) -> bool | None:
        return texts_are_bytes(self._tool["output_schema"]) if self._tool else None

    @cached_property
    def _parts(self) -> Parts:
        return Parts(are_bytes=self._texts_are_bytes)

    def _with_result(self, result: Any) -> Any:
        if self._files is None:
            return result
        if isinstance(result, list) and any(map(may_be_part, result)) and (not self._tool or self._tool["streaming"]):
            return [shown for item in result for shown in self._with_item(item)] + list(self._with_end())
        if isinstance(result, str) and may_be_part(result) and self._texts_are_bytes:
            return [*self._with_item(result), *self._with_end()][0]
        return _with_files(self._files, result, self._stem)

    def _with_item(self, data: Any) -> Iterator[Any]:
        """What to show after this item."""
        self._count += 1
        if self._files is None:
            yield data
            return
        taken = self._parts.take(data) if may_be_part(data) or self._in_parts else None
        if taken is None or taken[1]:
            yield from self._with_end()
        if taken is None:
            yield _with_files(self._files, data, f"{self._stem}-{self._count}")
            return
        part, starts_file = taken
        if starts_file:
            self._files.start(f"{self._stem}.{part.extension}", part)
            self._in_parts = True
        self._files.write(part)

    def _with_end(self) -> Iterator[str]:
        """What to show after the last part of a file."""
        if self._in_parts and self._files is not None:
            self._in_parts = False
            yield self._files.finish()

    def _show(self, shown: Any) -> None:
        if self._silent:
            self._items.append(shown)
        else:
            self._print(shown)

    def _print(self, content: Any) -> None:
        if isinstance(content, str):
            print_raw(content, end="" if self._raw else "\n")
        elif self._raw:
            print_raw(json.dumps(content, ensure_ascii=False))
        else:
            show_json(content)


def tool_of(api: Client, plugin: str | None, tool: str | None) -> Tool | None:
    """The tool; None where it cannot be looked up."""
    try:
        return next((one for one in api.tools(plugin or "") if one["name"] == tool), None)
    except ApiError:
        return None


def _with_files(files: Files, value: Any, stem: str) -> Any:
    """`value` with each file in it replaced by a text."""

    def replacement(inner: Any, where: Where) -> Any:
        if isinstance(inner, ResultFile):
            return files.file(inner)
        if (file := inline_file(inner)) is None:
            return inner
        steps = (str(step + 1 if isinstance(step, int) else step).replace("/", "_") for step in where)
        files.start(f"{'-'.join((stem, *steps))}.{file.extension}", file)
        files.write(file)
        return {**inner, "data": files.finish()} if isinstance(inner, dict) else files.finish()

    return replaced_within(value, replacement)
