"""`runs`: those that wait, execute and have been."""

from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.client import connected, exit_code, tell
from orchestrator.cli.output import AsJson, busy, complete_plugin, console, show_json
from orchestrator.cli.running import OutputFolder, Raw, Results
from orchestrator.cli.tables import fields_table, runs_table
from orchestrator.client import ApiError

app = typer.Typer(help="Runs: those that wait, execute and have been.", invoke_without_command=True)

RunId = Annotated[str, typer.Argument(help="The run's id.")]


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
        run = api.handle(run_id).status()
    show_json(run) if as_json else console.print(fields_table(run))


@app.command()
def cancel(run_id: RunId, *, as_json: AsJson = False) -> None:
    """Ask a run to end. The tool is told first; its container is stopped only where it does not listen."""
    with connected() as api:
        run = api.handle(run_id).cancel()
    if as_json:
        show_json(run)
    elif run["state"] in ("finished", "interrupted"):
        console.print(Text(f"It has ended already: {run['outcome'] or run['state']}."))
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
                envelope = api.handle(run_id).envelope(wait)
        except ApiError as error:
            show_json(error.envelope) if as_json and error.envelope else tell(error)
            raise typer.Exit(exit_code(error)) from None
    shown = Results(raw=raw, output=output, stem=envelope.get("tool") or "result")
    show_json(shown.kept(envelope)) if as_json else shown.whole(envelope["result"])
