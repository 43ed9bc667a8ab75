"""The operator's command line. serve, build, new, doctor, schema and keys work here, the others through the API."""

import typer

from orchestrator.cli import audit, background, images, keys, operating, reading, running, runs, schema, server

app = typer.Typer(
    help="Runs plugins, each in its own container, and says how every one of them is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """The entry point of `orchestrator`."""
    app()


app.command()(server.serve)
app.command(hidden=True)(background.up)
app.command(hidden=True)(background.down)
for looking in (reading.plugins, reading.health, reading.tools, reading.logs, reading.events, reading.gpus):
    app.command(rich_help_panel="Look")(looking)
app.command(rich_help_panel="Run")(running.run)
app.add_typer(runs.app, name="runs", rich_help_panel="Run")
for changing in (operating.restart, operating.start, operating.stop):
    app.command(rich_help_panel="Operate")(changing)
app.add_typer(keys.app, name="keys", rich_help_panel="Operate")
app.command(rich_help_panel="Write plugins")(server.build)
app.command(rich_help_panel="Write plugins")(schema.schema)
app.command(rich_help_panel="Examine")(audit.audit)
app.command(rich_help_panel="Operate")(images.image)
