"""`run`: a tool, its progress as it goes, and what it gave."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from orchestrator.cli import results
from orchestrator.cli.client import connected, errors, exit_code, fail, misused, tell
from orchestrator.cli.output import AsJson, Name, complete_tool, console, print_raw, show_json
from orchestrator.client import ApiError, End, Envelope, FormText, Item, PluginError, StreamEvent, Unreachable, Upload
from orchestrator.client import Progress as Step

OutputFolder = Annotated[
    Path | None, typer.Option("-o", "--output", help="Save pictures and other files in the result to this folder.")
]
Raw = Annotated[bool, typer.Option("--raw", help="The result as it is: a text, else JSON on one line.")]


def run(
    plugin: Name,
    tool: Annotated[str, typer.Argument(help="The tool's name.", autocompletion=complete_tool)],
    *,
    inputs: Annotated[
        list[str] | None, typer.Option("-i", "--input", help="An upload: parameter=file, or parameter=- for stdin.")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="Another argument: parameter=value. Again for a list.")
    ] = None,
    output: OutputFolder = None,
    raw: Raw = False,
    asynchronous: Annotated[bool, typer.Option("--async", help="Only begin it, and print the run's id.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a tool. Exit code 1 where it gave no result, 4 where the plugin takes no runs, 5 where its queue is full."""
    arguments = _arguments(inputs, parameters)
    with connected() as api:
        if asynchronous:
            handle = api.run_async(plugin, tool, **arguments)
            show_json(handle.status()) if as_json else print_raw(handle.run_id)
            return
        shown = Results(raw=raw, output=output, stem=tool)
        try:
            envelope = _followed(api.stream(plugin, tool, **arguments), None if as_json else shown)
        except ApiError as error:
            if as_json and error.envelope:
                show_json(error.envelope)
            else:
                tell(error)
                if isinstance(error, PluginError):
                    errors.print(
                        Text(f"orchestrator health {plugin} shows what is known of it.", "dim"), soft_wrap=True
                    )
            raise typer.Exit(exit_code(error)) from None
        if as_json:
            show_json(shown.kept(envelope))


class Results:
    """Prints results as they come. `output`: the folder for the files in them."""

    def __init__(self, *, raw: bool, output: Path | None, stem: str) -> None:
        self._raw = raw
        self._output = output
        self._stem = stem
        self._count = 0

    def item(self, data: Any) -> None:
        """One of a streaming tool's."""
        self._count += 1
        self.show(self._saved(data, f"{self._stem}-{self._count}"))

    def whole(self, result: Any) -> None:
        self.show(self._saved(result, self._stem))

    def kept(self, envelope: Envelope) -> Envelope:
        """The envelope with its files saved."""
        return {**envelope, "result": self._saved(envelope["result"], self._stem)}

    def show(self, content: Any) -> None:
        if isinstance(content, str):
            print_raw(content, end="" if self._raw else "\n")
        elif self._raw:
            print_raw(json.dumps(content, ensure_ascii=False))
        else:
            show_json(content)

    def _saved(self, result: Any, stem: str) -> Any:
        if self._output is None:
            return result
        try:
            return results.save(result, self._output, stem)
        except OSError as error:
            fail(f"{self._output} cannot be written to: {error.strerror}")


def _followed(events: Iterable[StreamEvent], shown: Results | None) -> Envelope:
    """The envelope at the end, with all items as its result; with `shown` each is printed when it comes."""
    items: list[Any] = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = None
        for event in events:
            match event:
                case Step(fraction, message):
                    if task is None:
                        task = progress.add_task("", total=1)
                    progress.update(task, completed=fraction, description=message[: console.width // 2])
                case Item(data):
                    items.append(data)
                    if shown is not None:
                        shown.item(data)
                case End(envelope):
                    if envelope.get("result") is None and items:
                        return {**envelope, "result": items}
                    if shown is not None:
                        shown.whole(envelope.get("result"))
                    return envelope
    raise Unreachable("The run's stream broke off before its end.")


def _arguments(inputs: list[str] | None, parameters: list[str] | None) -> dict[str, Any]:
    texts: dict[str, list[FormText]] = {}
    for name, value in _pairs(parameters):
        texts.setdefault(name, []).append(FormText(value))
    arguments: dict[str, Any] = {name: values[0] if len(values) == 1 else values for name, values in texts.items()}
    for name, value in _pairs(inputs):
        if name in arguments:
            misused(repr(f"{name}={value}"), f"{name} is given twice")
        arguments[name] = _upload(value)
    return arguments


def _upload(path: str) -> Upload:
    if path == "-":
        return Upload(sys.stdin.buffer, "stdin")
    try:
        with Path(path).open("rb"):
            return Upload(Path(path))
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")


def _pairs(items: list[str] | None) -> Iterable[tuple[str, str]]:
    for item in items or []:
        name, found, value = item.partition("=")
        if not found or not name:
            misused(repr(item), "expected parameter=value")
        yield name, value
