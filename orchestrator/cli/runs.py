"""`runs`: those that wait, execute and have been."""

from typing import Annotated, Final

import typer
from rich.text import Text

from orchestrator.cli.client import connected, exit_code, fail, tell
from orchestrator.cli.output import AsJson, busy, complete_plugin, console, show_json
from orchestrator.cli.running import OutputFolder, Raw, Results
from orchestrator.cli.tables import fields_table, runs_table
from orchestrator.client import ApiError, Client, RunHandle

app = typer.Typer(help="Runs: those that wait, execute and have been.", invoke_without_command=True)

RunId = Annotated[str, typer.Argument(help="The run's id, or how it begins.")]
_WHOLE_ID: Final = 32
_LOOKED_THROUGH: Final = 500  # runs at most that the API lists at once


def _handle(api: Client, run_id: str) -> RunHandle:
    """The run of this id. A shorter one, as the list shows it, is looked for among the newest runs."""
    if not 0 < len(run_id) < _WHOLE_ID:
        return api.handle(run_id)
    found = [run["run_id"] for run in api.runs(limit=_LOOKED_THROUGH) if run["run_id"].startswith(run_id)]
    if len(found) > 1:
        fail(f"The ids of {len(found)} runs begin with {run_id}: give more of it.")
    return api.handle(found[0] if found else run_id)


@app.callback()
def list_runs(
    ctx: typer.Context,
    *,
    plugin: Annotated[str | None, typer.Option(help="One plugin's.", autocompletion=complete_plugin)] = None,
    state: Annotated[str | None, typer.Option(help="queued, running, finished or interrupted.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=500)] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with connected() as api:
        listed = api.runs(plugin, state=state, limit=limit)
    show_json(listed) if as_json else console.print(runs_table(listed))


@app.command()
def show(run_id: RunId, *, as_json: AsJson = False) -> None:
    """One run: its place in the queue, its progress, what it came to."""
    with connected() as api:
        run = _handle(api, run_id).status()
    show_json(run) if as_json else console.print(fields_table(run))


@app.command()
def cancel(run_id: RunId, *, as_json: AsJson = False) -> None:
    """Ask a run to end. The tool is told first; its container is stopped only where it does not listen."""
    with connected() as api:
        run = _handle(api, run_id).cancel()
    if as_json:
        show_json(run)
    elif run["state"] in ("finished", "interrupted"):
        waited = run["outcome"] == "cancelled" and run["started_at"] is None
        ended = "It is cancelled, before it began." if waited else f"It has ended: {run['outcome'] or run['state']}."
        console.print(Text(ended))
    else:
        console.print(
            Text(f"Cancelling it; `orchestrator runs show {run_id}` tells when it has ended."), soft_wrap=True
        )


@app.command()
def result(
    run_id: RunId,
    *,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 0,
    output: OutputFolder = None,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """What a run gave. Exit codes as those of `run`; 1 while it goes on."""
    with connected() as api:
        try:
            with busy("waiting for its end …"):
                envelope = _handle(api, run_id).envelope(wait)
        except ApiError as error:
            show_json(error.envelope) if as_json and error.envelope else tell(error)
            raise typer.Exit(exit_code(error)) from None
    shown = Results(raw=raw, output=output, stem=envelope.get("tool") or "result")
    show_json(shown.kept(envelope)) if as_json else shown.whole(envelope["result"])
