"""`schema`: the JSON Schema of plugin.yaml, and the description of the API."""

from typing import Annotated

import typer

from orchestrator.app import create_app
from orchestrator.cli.output import show_json
from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings


def schema(
    *, openapi: Annotated[bool, typer.Option("--openapi", help="The API's description instead (OpenAPI).")] = False
) -> None:
    """The JSON Schema of plugin.yaml, for editors."""
    show_json(create_app(Settings()).openapi() if openapi else Manifest.model_json_schema())
