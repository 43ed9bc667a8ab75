"""`image` and `check-image`: the orchestrator's own image, and any image held against the runtime protocol."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator import conformance
from orchestrator.app import docker_engine, own_image
from orchestrator.cli.client import EXIT_USAGE, errors
from orchestrator.cli.configured import read_settings
from orchestrator.cli.output import console
from orchestrator.conformance import ANY_ENTRYPOINT
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings


def image() -> None:
    """Build the orchestrator's own image from what is installed here, where that changed, and print its name.

    It is named plugin-orchestrator/orchestrator:latest too, which compose.yaml asks for.
    """
    settings = read_settings()
    errors.print(
        f"making the image ready (about a minute the first time); output: {settings.state_dir}/builds",
        markup=False,
        soft_wrap=True,
    )
    try:
        built = asyncio.run(own_image(settings))
    except OrchestratorError as error:
        errors.print(f"{error}\n{getattr(error, 'tail', '')}".rstrip(), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    # For scripts: nothing but the name.
    print(next((tag for tag in built.tags if not tag.endswith(":latest")), built.id))  # noqa: T201


def check_image(
    image: Annotated[str, typer.Argument(help="The image, by a name or an id that the engine has.")],
    *,
    call: Annotated[str | None, typer.Option(help="A tool of it to call, too.")] = None,
    arguments: Annotated[str, typer.Option(help="Arguments that fit that tool, as a JSON object.")] = "{}",
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=value, as a manifest's `env`.")] = None,
    entrypoint: Annotated[str, typer.Option(help="As a manifest's, for an image that loads one.")] = ANY_ENTRYPOINT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Hold an image against the runtime protocol (PROTOCOL.md), rule by rule. Exit code 1 where one is broken."""
    settings = read_settings()
    try:
        given: Any = json.loads(arguments)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        errors.print("--arguments: expected a JSON object", markup=False)
        raise typer.Exit(EXIT_USAGE)
    environment = dict(item.partition("=")[::2] for item in env or ())
    try:
        results = asyncio.run(_check(settings, image, (call, given) if call else None, environment, entrypoint))
    except (OrchestratorError, OSError, ValueError) as error:
        errors.print(str(error), markup=False, style="red", soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from None
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))  # noqa: T201 - for programs
    else:
        for result in results:
            colour = {"ok": "green", "broken": "bold red"}.get(result.outcome, "dim")
            told = Text.assemble((f"{result.outcome:<12}", colour), (f"{result.rule:<18}", "bold"), result.demands)
            if result.detail:
                told.append(f"\n{'':<12}{result.detail}")
            console.print(told, soft_wrap=True)
    if any(result.outcome == "broken" for result in results):
        raise typer.Exit(1)


async def _check(
    settings: Settings,
    image: str,
    call: tuple[str, dict[str, Any]] | None,
    environment: dict[str, str],
    entrypoint: str,
) -> list[conformance.Result]:
    engine = docker_engine(settings)
    try:
        return await conformance.check_image(
            engine, image, settings, call=call, environment=environment, entrypoint=entrypoint
        )
    finally:
        await engine.close()
