"""`run` and `runs`: runs a tool with its progress; lists, shows and cancels runs, and fetches their results."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from orchestrator.cli.connection import Name, complete_plugin, complete_tool, connected, exit_code, report
from orchestrator.cli.console import AsJson, busy, console, errors, fail, misused, print_raw, show_json
from orchestrator.cli.file_output import STDOUT, DescribedFiles, SavedFiles
from orchestrator.cli.results import ResultPrinter, tool_of
from orchestrator.cli.tables import fields_table, runs_table
from orchestrator.client import (
    ApiError,
    Client,
    End,
    Envelope,
    FormText,
    Item,
    PluginError,
    RunHandle,
    StreamEvent,
    Tool,
    Unreachable,
    Upload,
)
from orchestrator.client import Progress as Step

Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="Save the result's files to this folder (out/), or its one file under this name (a.png); - is stdout.",
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Print the bare result: a text, or JSON on one line.")]
RunId = Annotated[str, typer.Argument(help="The run's id or its first digits.")]

_ID_LENGTH: Final = 32
_MAX_LISTED: Final = 500  # runs in one answer of the API

runs = typer.Typer(help="List, show and cancel runs, and fetch their results.", invoke_without_command=True)


def run(
    plugin: Name,
    tool: Annotated[str, typer.Argument(help="The tool's name.", autocompletion=complete_tool)],
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", help="A file: parameter=file, or parameter=- for stdin. Repeat it for several."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", help="Another argument: parameter=value. Repeat it for a list."),
    ] = None,
    output: Output = None,
    raw: Raw = False,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="Start the run, print its id and do not wait for it.")
    ] = False,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Have the run made once more if its instance dies and the tool is idempotent."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a tool. Exit code 1 if it gave no result, 4 if the plugin takes no runs, 5 if its queue is full."""
    arguments = _arguments(inputs, parameters)
    with connected(retry_idempotent=retry) as api:
        _check_files(tool_of(api, plugin, tool), arguments)
        if asynchronous:
            handle = api.run_async(plugin, tool, **arguments)
            show_json(handle.status()) if as_json else print_raw(handle.run_id)
            return
        try:
            with _printer(api, plugin, tool, output, raw=raw, as_json=as_json) as printer:
                envelope = _follow(api.stream(plugin, tool, **arguments), printer)
                if as_json:
                    show_json(envelope)
        except ApiError as error:
            if as_json and error.envelope:
                show_json(error.envelope)
            else:
                report(error)
                if isinstance(error, PluginError):
                    errors.print(Text(f"`orchestrator health {plugin}` shows all details.", "dim"), soft_wrap=True)
            raise typer.Exit(exit_code(error)) from None


@runs.callback()
def list_runs(
    ctx: typer.Context,
    *,
    plugin: Annotated[str | None, typer.Option(help="Only this plugin's.", autocompletion=complete_plugin)] = None,
    state: Annotated[str | None, typer.Option(help="queued, running, finished or interrupted.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=500, help="Number of newest runs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with connected() as api:
        listed = api.runs(plugin, state=state, limit=limit)
    show_json([_run_id_first(run) for run in listed]) if as_json else console.print(runs_table(listed))


@runs.command()
def show(run_id: RunId, *, as_json: AsJson = False) -> None:
    """Show one run: its position in the queue, its progress, its outcome."""
    with connected() as api:
        found = _run_id_first(_handle(api, run_id).status())
    show_json(found) if as_json else console.print(fields_table(found))


@runs.command()
def cancel(run_id: RunId, *, as_json: AsJson = False) -> None:
    """Cancel a run. The tool is notified first; its container is stopped only if the tool does not end."""
    with connected() as api:
        found = _handle(api, run_id).cancel()
    if as_json:
        show_json(_run_id_first(found))
    elif found["state"] in ("finished", "interrupted"):
        waited = found["outcome"] == "cancelled" and found["started_at"] is None
        ended = (
            "It was cancelled before it started." if waited else f"It has ended: {found['outcome'] or found['state']}."
        )
        console.print(Text(ended))
    else:
        console.print(Text(f"Cancelling it. `orchestrator runs show {run_id}` shows its state."), soft_wrap=True)


@runs.command()
def result(
    run_id: RunId,
    *,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 0,
    output: Output = None,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Print the result of a run. Exit codes as for `run`; 1 while it has not finished."""
    with connected() as api:
        try:
            with busy("waiting for its end …"):
                envelope = _handle(api, run_id).envelope(wait)
        except ApiError as error:
            show_json(error.envelope) if as_json and error.envelope else report(error)
            raise typer.Exit(exit_code(error)) from None
        with _printer(api, envelope.get("plugin"), envelope.get("tool"), output, raw=raw, as_json=as_json) as printer:
            shown = printer.end(envelope)
            if as_json:
                show_json(shown)


def _handle(api: Client, run_id: str) -> RunHandle:
    """The run with this id; a shorter one is looked up among the newest runs."""
    if not 0 < len(run_id) < _ID_LENGTH:
        return api.handle(run_id)
    listed = api.runs(limit=_MAX_LISTED)
    found = {run["run_id"] for run in listed if run["run_id"].startswith(run_id)}
    numbered = {run["run_id"] for run in listed if str(run.get("id")) == run_id} - found
    if len(found) > 1:
        fail(f"The ids of {len(found)} runs start with {run_id}. Give more digits.")
    if numbered:  # a position in the list, which programs page by: it may as well be the start of another run's id
        fail(f"{run_id} is the `id` of a run in the list. Give its `run_id`, which is {numbered.pop()}.")
    return api.handle(found.pop() if found else run_id)


def _run_id_first(run: Mapping[str, Any]) -> dict[str, Any]:
    """The run with the id that commands take before all else."""
    return {"run_id": run["run_id"], **run}


@contextmanager
def _printer(
    api: Client, plugin: str | None, tool: str | None, output: str | None, *, raw: bool, as_json: bool
) -> Iterator[ResultPrinter]:
    """What prints one result, and saves its files if they are wanted."""
    if output == STDOUT and as_json:
        misused("--json", "stdout is for the file, which -o - is to write there")
    printer = partial(
        ResultPrinter,
        stem=tool or "result",
        tool=lambda: tool_of(api, plugin, tool),
        raw=raw,
        silent=as_json or output == STDOUT,
    )
    if output is not None:
        with SavedFiles(output) as saved:
            yield printer(files=saved)
            saved.check()
    elif console.is_terminal and not raw and not as_json:
        found = DescribedFiles()
        yield printer(files=found)
        found.print_hint()
    else:
        yield printer()


def _follow(events: Iterable[StreamEvent], printer: ResultPrinter) -> Envelope:
    """The envelope at the stream's end. `printer` gets each item as it arrives."""
    # The progress bar is on stderr: stdout holds the result alone, for pipes.
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
                    printer.item(data)
                case End(envelope):
                    return printer.end(envelope)
    raise Unreachable("The run's stream broke off before its end.")


def _arguments(inputs: list[str] | None, parameters: list[str] | None) -> dict[str, Any]:
    texts: dict[str, list[FormText]] = {}
    for name, value in _pairs(parameters):
        texts.setdefault(name, []).append(FormText(value))
    arguments: dict[str, Any] = {name: values[0] if len(values) == 1 else values for name, values in texts.items()}
    files: dict[str, list[Upload]] = {}
    for name, value in _pairs(inputs):
        if name in arguments:
            misused(repr(f"{name}={value}"), f"{name} is given both with -p and with -i")
        if value == "-" and any(one.content is sys.stdin.buffer for several in files.values() for one in several):
            misused(repr(f"{name}=-"), "stdin can be read once")
        files.setdefault(name, []).append(_upload(value))
    return arguments | {name: several[0] if len(several) == 1 else several for name, several in files.items()}


def _check_files(tool: Tool | None, arguments: Mapping[str, Any]) -> None:
    """Exit with an error where a file of the tool is given as a text, which would be taken for its content, or is
    missing. A tool that cannot be looked up is not checked.
    """
    if tool is None:
        return
    required = (tool.get("input_schema") or {}).get("required") or ()
    for name in tool.get("uploads") or ():
        value = arguments.get(name)
        first = value[0] if isinstance(value, list) else value
        if isinstance(first, FormText):
            misused(repr(f"{name}={first}"), f"{name} is a file, which is given with -i: -i {name}={first or 'FILE'}")
        if value is None and name in required:
            misused(name, f"it is missing, and is a file: give it with -i {name}=FILE")


def _upload(path: str) -> Upload:
    if path == "-":
        return Upload(sys.stdin.buffer, "stdin")
    try:
        # Opened once here, so that a missing file is reported before anything is sent.
        with Path(path).open("rb"):
            return Upload(Path(path))
    except OSError as error:
        fail(f"Cannot read {path}: {error.strerror}")


def _pairs(items: list[str] | None) -> Iterable[tuple[str, str]]:
    for item in items or []:
        name, found, value = item.partition("=")
        if not found or not name:
            misused(repr(item), "expected parameter=value")
        yield name, value
