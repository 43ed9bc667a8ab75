"""The commands that work here, on folders, settings and the engine. See `commands.main` for when they are imported."""

from orchestrator.cli import audit, background, building, dev, doctor, images, keys, new, schema, server
from orchestrator.cli.commands import app

app.command()(server.serve)
app.command(hidden=True)(background.up)
app.command(hidden=True)(background.down)
app.command(rich_help_panel="Write plugins")(new.new)
app.command(rich_help_panel="Write plugins")(dev.dev)
app.command(rich_help_panel="Write plugins")(building.build)
app.command(rich_help_panel="Write plugins")(schema.schema)
app.add_typer(keys.app, name="keys", rich_help_panel="Operate")
app.command(rich_help_panel="Write plugins")(images.check_image)
app.command(rich_help_panel="Operate")(images.image)
app.command(rich_help_panel="Operate")(doctor.doctor)
app.command(rich_help_panel="Operate")(audit.audit)
