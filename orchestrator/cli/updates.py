"""`update`, `revert`, `updates`: a new version of a plugin without a gap."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from orchestrator.cli.connection import Name, connected
from orchestrator.cli.console import (
    EXIT_FAILED,
    AsJson,
    busy,
    console,
    errors,
    fail,
    misused,
    print_line,
    print_raw,
    show_json,
)
from orchestrator.cli.operate import activity_of, next_step
from orchestrator.cli.tables import fields_table, long_texts
from orchestrator.cli.update_rows import step_lines, update_failed, update_fields, update_sentence, updates_table
from orchestrator.client import Client, PluginDetail, Update
from orchestrator.client.models import AskedStrategy

if TYPE_CHECKING:
    from orchestrator.client.models import AskedStrategy

NoWait = Annotated[bool, typer.Option("--no-wait", help="Begin it, and do not wait for its end.")]
Show = Callable[[Update, PluginDetail], None]
_FOR_EVER: Final = float("inf")
_POLL_INTERVAL: Final = 1.0  # seconds


def update(
    name: Name,
    *,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Beside the old instance, whatever the manifest says.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Stop the old instance first, at the cost of a gap.")
    ] = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Bring up a plugin as its folder has it now, without a gap. Exit code 1 if that is rejected.

    A candidate is started and makes the calls of samples/calls.yaml, then it takes all new runs. One that fails is
    rejected, and the plugin stays what it was.
    """
    if overlap and replace:
        misused("--replace", "--overlap is given, too")
    strategy: AskedStrategy = "overlap" if overlap else "replace" if replace else "auto"
    wait = 0.0 if no_wait else _FOR_EVER
    _carry_out(name, "update", lambda api, show: api.update(name, strategy, wait=wait, on_wait=show), as_json)


def revert(name: Name, *, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Go back to a plugin's former release, its manifest and image as they were, the same way. It stays until the next
    update.
    """
    wait = 0.0 if no_wait else _FOR_EVER
    _carry_out(name, "revert", lambda api, show: api.revert(name, wait=wait, on_wait=show), as_json)


def updates(
    name: Name,
    which: Annotated[
        str | None, typer.Argument(metavar="ID", help="All about this one; the first characters are enough.")
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the one that is under way to its end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List a plugin's last updates and reverts, or show one with the post-mortem of its candidate."""
    if follow and which is not None:
        misused("--follow", "an ID is given; only the last one can be under way")
    with connected() as api:
        if follow:
            _follow(api, name, as_json=as_json)
            return
        listed = api.updates(name)
    if which is None:
        _list(name, listed, as_json=as_json)
        return
    found = [each for each in listed if each["id"].startswith(which)]
    if len(found) != 1:
        fail(f"{'No update' if not found else 'More than one update'} of {name} begins with {which!r}.")
    if as_json:
        show_json(found[0])
        return
    console.print(fields_table(update_fields(found[0])))
    console.print()
    for line in step_lines(found[0], set()):
        console.print(line, soft_wrap=True)
    for heading, text in long_texts(found[0]):
        console.print(Text(f"\n{heading}", style="bold"))
        print_raw(text.rstrip("\n"))


def _list(name: str, listed: list[Update], *, as_json: bool) -> None:
    if as_json:
        show_json(listed)
    elif listed:
        console.print(updates_table(listed))
    else:
        errors.print(f"{name} has not been updated yet.", soft_wrap=True)


def _carry_out(name: str, kind: str, command: Callable[[Client, Show], Update], as_json: bool) -> None:  # noqa: FBT001
    with connected() as api, busy(f"{name}: {kind} …") as say:
        show = _Steps(say)
        try:
            done = command(api, show.update)
        except KeyboardInterrupt:
            # Its request may have arrived although its answer has not.
            what = "goes on" if show.begun else "may have begun, and then goes on"
            errors.print(f"The {kind} {what}. `orchestrator updates {name} -f` follows it.", soft_wrap=True)
            raise
        show.update(done, None)
    if as_json:
        show_json(done)
    if not done["ended"]:
        errors.print(
            f"The {kind} {done['id']} is under way. `orchestrator updates {name} -f` follows it.", soft_wrap=True
        )
        return
    _end(name, done, quiet=as_json)


def _follow(api: Client, name: str, *, as_json: bool) -> None:
    with busy(f"{name} …") as say:
        steps = _Steps(say)
        while True:
            if not (listed := api.updates(name)):
                fail(f"{name} has not been updated yet.")
            last = listed[0]
            if as_json:
                print_line(last)
            else:
                steps.update(last, None if last["ended"] else api.health(name))
            if last["ended"]:
                break
            time.sleep(_POLL_INTERVAL)
    _end(name, last, quiet=as_json)


class _Steps:
    """Prints each step once, on stderr; between them it shows what goes on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: set[str] = set()

    @property
    def begun(self) -> bool:
        return bool(self._seen)

    def update(self, update: Update, plugin: PluginDetail | None) -> None:
        for line in step_lines(update, self._seen, whole=False):
            errors.print(line, soft_wrap=True)
        if plugin is not None and (doing := _doing(update, plugin)):
            self._say(f"{update['plugin']}: {doing}")


def _doing(update: Update, plugin: PluginDetail) -> str:
    """The build's newest line, or what is waited for."""
    if doing := activity_of(plugin):
        return doing
    instances = {each["generation"]: each for each in plugin.get("instances", ())}
    draining = update["draining"]
    if draining is not None and draining in instances:
        runs = instances[draining]["in_flight"]
        under_way = "1 is under way" if runs == 1 else f"{runs} are under way"
        what = f"takes no new runs; {under_way}" if runs else "is being stopped"
        return f"instance {draining} {what}"
    candidate = update["candidate"]
    if candidate is not None and candidate in instances:
        return f"instance {candidate} is {instances[candidate]['state']}"
    return ""


def _end(name: str, update: Update, *, quiet: bool) -> None:
    if not update_failed(update):
        if not quiet:
            print_raw(update_sentence(update))
        return
    errors.print(Text(update_sentence(update), style="red"), soft_wrap=True)
    shows = f"`orchestrator updates {name} {update['id']}` shows its post-mortem."
    errors.print(shows if update["post_mortem"] else next_step(name, update["reason_code"]), soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)
