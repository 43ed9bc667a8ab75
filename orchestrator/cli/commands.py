"""The commands."""

import json
import mimetypes
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.cli import background, client, images, keys, server
from orchestrator.cli.audit import audit
from orchestrator.cli.tables import gpus_table, health_table, long_texts, plugins_table

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
console = Console(highlight=False, emoji=False)

Name = Annotated[str, typer.Argument(help="The plugin's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]


def main() -> None:
    """The entry point of `orchestrator`."""
    app()


app.command()(server.serve)
app.command(hidden=True)(background.up)
app.command(hidden=True)(background.down)
app.command()(server.build)
app.command()(audit)
app.add_typer(keys.app, name="keys")
app.command()(images.image)


@app.command()
def plugins(*, as_json: AsJson = False) -> None:
    """The plugins and how each of them is."""
    listed = client.get("/v1/plugins")
    _show(listed, as_json=as_json) if as_json else console.print(plugins_table(listed))


@app.command()
def health(name: Name, *, as_json: AsJson = False) -> None:
    """Everything known of one plugin. Exit code 1 where it is FAILED or UNAVAILABLE."""
    plugin = client.get(f"/v1/plugins/{name}/health")
    if as_json:
        _show(plugin, as_json=True)
    else:
        console.print(health_table(plugin))
        for heading, text in long_texts(plugin):
            console.print(Text(f"\n{heading}", style="bold"))
            print(text.rstrip("\n"))  # noqa: T201 - raw: neither wrapped nor cut
    if plugin["reason_code"] is not None:
        raise typer.Exit(client.EXIT_FAILED)


@app.command()
def tools(name: Name, *, as_json: AsJson = False) -> None:
    """A plugin's tools and what they take."""
    listed = client.get(f"/v1/plugins/{name}/tools")
    if as_json:
        _show(listed, as_json=True)
        return
    for tool in listed:
        console.print(Text.assemble((tool["name"], "bold"), f"  {tool.get('description') or ''}"), soft_wrap=True)
        schema = tool.get("input_schema", {})
        for parameter, about in schema.get("properties", {}).items():
            upload = tool.get("uploads", {}).get(parameter)
            kind = f"upload ({upload})" if upload else about.get("type", "any")
            default = f" = {about['default']!r}" if "default" in about else ""
            line = Text.assemble(f"    {parameter}: {kind}{default}  ", (about.get("description") or "", "dim"))
            console.print(line, soft_wrap=True)


@app.command()
def run(
    plugin: Name,
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    *,
    inputs: Annotated[list[str] | None, typer.Option("-i", "--input", help="An upload: parameter=file.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="Another argument: parameter=value.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a tool. Exit code 1 where it gave no result."""
    fields, files = _pairs(parameters), _pairs(inputs)
    with ExitStack() as stack:
        parts: dict[str, Any] = {}
        for parameter, path in files.items():
            try:
                handle = stack.enter_context(Path(path).open("rb"))
            except OSError as error:
                client.fail(f"{path} cannot be read: {error.strerror}")
            parts[parameter] = (Path(path).name, handle, mimetypes.guess_type(path)[0] or "application/octet-stream")
        # All as form fields: the plugin knows its parameters' types, and reads `42` as a text where it wants one.
        parts |= {parameter: (None, value) for parameter, value in fields.items()}
        body: dict[str, Any] = {"files": parts} if parts else {"json": {}}
        response = client.request("POST", f"/v1/plugins/{plugin}/tools/{tool}/run", read_timeout=None, **body)
    envelope = client.envelope(response)
    good = bool(envelope.get("ok"))
    if as_json:
        _show(envelope, as_json=True)
    elif good:
        _show(envelope.get("result"), as_json=False)
    else:
        kind = envelope.get("reason_code") or envelope.get("error_type") or response.status_code
        client.complain(str(kind), envelope.get("error") or "no reason was given")
    if not good:
        raise typer.Exit(client.EXIT_FAILED)


@app.command()
def logs(name: Name, *, tail: int = 100, follow: Annotated[bool, typer.Option("-f", "--follow")] = False) -> None:
    """What a plugin's container printed."""
    if not follow:
        response = client.request("GET", f"/v1/plugins/{name}/logs", params={"tail": tail})
        if response.is_error:
            client.content(response)
        print(response.text, end="")  # noqa: T201 - raw: log lines are not markup
        return
    client.stream_lines(f"/v1/plugins/{name}/logs", {"tail": str(tail), "follow": "true"})


@app.command()
def events(name: Name, *, as_json: AsJson = False) -> None:
    """A plugin's state changes."""
    listed = client.get(f"/v1/plugins/{name}/events")
    if as_json:
        _show(listed, as_json=True)
        return
    for event in listed:
        reason = f"  {event['reason_code']}: {event['reason']}" if event["reason_code"] else ""
        console.print(
            f"{event['time']}  #{event['generation']}  {event['state']}{reason}", markup=False, soft_wrap=True
        )


@app.command()
def gpus(*, as_json: AsJson = False) -> None:
    """The host's GPUs, how they are, and who holds them."""
    listed = client.get("/v1/gpus")
    if as_json:
        _show(listed, as_json=True)
        return
    if listed["reason"]:
        console.print(Text.assemble((str(listed["reason_code"]), "yellow"), f": {listed['reason']}"), soft_wrap=True)
    if listed["devices"]:
        console.print(gpus_table(listed["devices"]))
    for sentence in listed["quarantines"]:
        console.print(Text(sentence, style="yellow"), soft_wrap=True)


@app.command()
def restart(name: Name, *, wait: float = 120) -> None:
    """Begin a new instance of a plugin, and wait for it."""
    _command(name, "restart", wait)


@app.command()
def start(name: Name, *, wait: float = 120) -> None:
    """Begin an instance of a plugin that has none."""
    _command(name, "start", wait)


@app.command()
def stop(name: Name) -> None:
    """End a plugin's instance."""
    _command(name, "stop", 0)


@app.command()
def schema() -> None:
    """The JSON Schema of plugin.yaml, for editors."""
    from orchestrator.loader.manifest import Manifest  # noqa: PLC0415 - only this command needs it

    _show(Manifest.model_json_schema(), as_json=True)


def _command(name: str, action: str, wait: float) -> None:
    params = {} if action == "stop" else {"wait": wait}
    plugin = client.content(
        client.request("POST", f"/v1/plugins/{name}/{action}", params=params, read_timeout=wait + 120)
    )
    console.print(plugins_table([plugin]))
    if action != "stop" and plugin["reason_code"] is not None:
        raise typer.Exit(client.EXIT_FAILED)


def _pairs(items: list[str] | None) -> dict[str, str]:
    pairs = {}
    for item in items or []:
        name, found, value = item.partition("=")
        if not found or not name:
            client.complain(repr(item), "expected parameter=value")
            raise typer.Exit(client.EXIT_USAGE)
        pairs[name] = value
    return pairs


def _show(content: Any, *, as_json: bool) -> None:
    if not as_json and isinstance(content, str):
        print(content)  # noqa: T201 - raw: a tool's text is not markup
    else:
        console.print_json(json.dumps(content, ensure_ascii=False))
