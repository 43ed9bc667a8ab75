"""`restart`, `start`, `scale`, `park`, `stop`: operate plugins."""

from collections.abc import Callable
from typing import Annotated, Final, Literal

import typer

from orchestrator.cli.connection import Name, connected
from orchestrator.cli.console import EXIT_FAILED, AsJson, busy, console, errors, show_json
from orchestrator.cli.tables import plugins_table
from orchestrator.client import Client, Plugin, PluginDetail, RestartRefused

Only = Literal["failed"]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for new instances.")]
_DEFAULT_WAIT: Final = 120.0
_HOST: Final = "doctor` checks secrets, images and the engine of this host"
_MODELS: Final = "models list` shows the models, and where they are"
_NEXT_STEPS: Final = {
    "BUILD_FAILED": "logs {name} --build` prints its last build",
    "MANIFEST_INVALID": "audit` shows what is wrong in the plugins' folders",
    "MODEL_MISSING": _MODELS,
    "MODEL_CORRUPT": _MODELS,
    "SECRET_MISSING": _HOST,
    "IMAGE_MISSING": _HOST,
    "ENGINE_UNREACHABLE": _HOST,
    "STOPPED": "start {name}` starts it",
}
"""What to do after a restart that was refused, or an update that was rejected before it had a candidate, by the reason
code.
"""


def restart(
    name: Name,
    *,
    only: Annotated[
        Only | None, typer.Option(help="failed: new instances in place of those that ended; the others go on.")
    ] = None,
    wait: Wait = _DEFAULT_WAIT,
    as_json: AsJson = False,
) -> None:
    """Replace a plugin's instances by new ones and wait for them. Exit code 1 if it failed."""
    _operate(name, "restart", lambda api, show: api.restart(name, wait=wait, only=only, on_wait=show), wait, as_json)


def start(name: Name, *, wait: Wait = _DEFAULT_WAIT, as_json: AsJson = False) -> None:
    """Start the instances of a plugin that are missing and wait for them. Exit code 1 if it failed."""
    _operate(name, "start", lambda api, show: api.start(name, wait=wait, on_wait=show), wait, as_json)


def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(metavar="N", min=1, max=64, help="Instances at a time.")],
    *,
    wait: Wait = _DEFAULT_WAIT,
    as_json: AsJson = False,
) -> None:
    """Set how many instances a plugin has at a time, in place of its manifest's `replicas`; restarts keep it."""
    _operate(name, "scale", lambda api, show: api.scale(name, replicas, wait=wait, on_wait=show), wait, as_json)


def _operate(
    name: str,
    action: str,
    command: Callable[[Client, Callable[[PluginDetail], None]], PluginDetail],
    wait: float,
    as_json: bool,  # noqa: FBT001 - passed on by each command above
) -> None:
    with connected() as api, busy(f"{name}: waiting for the new instance …") as say:

        def show(plugin: PluginDetail) -> None:
            if doing := activity_of(plugin):
                say(f"{name}: {doing}")

        try:
            plugin = command(api, show)
        except RestartRefused as refusal:
            advice = next_step(name, refusal.reason_code)
            errors.print(
                f"[bold]{name} was not restarted: what runs goes on.[/] {advice}",
                soft_wrap=True,
            )
            raise
    show_json(plugin) if as_json else console.print(plugins_table([plugin]))
    # The number of what does not run is noted, and counts at its next start.
    bad = plugin.get("degraded") if action == "scale" else plugin["reason_code"] is not None
    if bad:
        errors.print(f"[dim]`orchestrator health {name}` shows all details.[/]", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    preparing = plugin.get("restart") is not None and action == "restart"
    if wait and (plugin["state"] == "LOADED" or preparing):
        what = "The new instance is still prepared; the old one serves until then." if preparing else "It still starts."
        errors.print(f"[yellow]{what}[/] `orchestrator events -f` follows it.", soft_wrap=True)


def next_step(name: str, reason_code: str | None) -> str:
    """Where to look, by what is broken."""
    code = reason_code or ""
    fallback = (
        "gpus` shows the GPUs and who has them" if code.startswith("GPU_") else "health {name}` shows all details"
    )
    return f"`orchestrator {_NEXT_STEPS.get(code, fallback).format(name=name)}."


def activity_of(plugin: Plugin) -> str:
    """What goes on for the plugin, for how long, and the newest line of it; empty where nothing does."""
    return next((check["detail"] for check in plugin["checks"] if check["name"] == "activity"), "")


def park(name: Name, *, as_json: AsJson = False) -> None:
    """Stop a plugin's instances until it is called again: its next run starts new ones, and waits for them."""
    with connected() as api:
        plugin = api.park(name)
    show_json(plugin) if as_json else console.print(plugins_table([plugin]))


def stop(name: Name, *, as_json: AsJson = False) -> None:
    """Stop a plugin's instances and wait until their containers are removed."""
    with connected() as api, busy(f"stopping {name} …"):
        plugin = api.stop(name)
    show_json(plugin) if as_json else console.print(plugins_table([plugin]))
