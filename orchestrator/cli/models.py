"""`models`: pull, verify, list and gc, on the files of this machine. None of them starts or stops a plugin."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from orchestrator.cli.connection import complete_plugin
from orchestrator.cli.console import EXIT_FAILED, AsJson, complain, errors, fail, print_raw, show_json
from orchestrator.cli.model_rows import Declared, Row, model_rows, print_rows
from orchestrator.cli.pull_display import PullDisplay
from orchestrator.cli.settings import read_settings, report_unreadable
from orchestrator.errors import EngineError, OrchestratorError
from orchestrator.formatting import format_size
from orchestrator.loader.build_settings import ca_bundle
from orchestrator.loader.model_locations import locate_models
from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader
from orchestrator.models.credentials import NetrcError
from orchestrator.models.plan import Garbage, PartialFile, StoredFile, WantedFile, garbage, wanted_files
from orchestrator.models.pull import Puller
from orchestrator.models.store import ModelStore, ModelStoreError, model_store
from orchestrator.models.transfer import http_client
from orchestrator.settings import Settings

models = typer.Typer(help="Fetch, check, list and remove plugins' model files on this machine.", no_args_is_help=True)

Names = Annotated[
    list[str] | None, typer.Argument(help="Plugins; all by default.", autocompletion=complete_plugin, metavar="[NAME]…")
]


@models.command()
def pull(names: Names = None, *, as_json: AsJson = False) -> None:
    """Fetch the models that manifests name under `from` and that are not here yet. Exit code 1 if one could not be
    fetched. A pull that is interrupted, by Ctrl-C or in any other way, goes on the next time where it stopped.
    """
    settings = read_settings()
    plugins = _plugins(settings, names)
    declared = _declared(settings, plugins)
    store = model_store(settings)
    files = wanted_files(model.reference for model in declared)
    if not files:
        complain("Nothing to fetch", "no manifest names a model with `from`.", style="yellow")
    with _client(settings) as client, PullDisplay() as display, _interruptible():
        puller = Puller(store, client, display)
        outcomes = [_pull_one(puller, file, declared, display) for file in files]
    if as_json:
        show_json(outcomes)
    _say_next(outcomes)
    failed = any(outcome["outcome"] == "failed" for outcome in outcomes)
    if report_unreadable(settings, plugins) or failed:
        raise typer.Exit(EXIT_FAILED)


def _client(settings: Settings) -> httpx.Client:
    tokens = {host: token.get_secret_value() for host, token in settings.models_tokens.items()}
    try:
        return http_client(ca_bundle(settings, os.environ), tokens)
    except NetrcError as error:
        fail(str(error))


def _pull_one(puller: Puller, file: WantedFile, declared: Sequence[Declared], display: PullDisplay) -> dict[str, Any]:
    at_place = _all_right_at_their_place(puller.store, file, declared, display)
    outcome: dict[str, Any] = {
        "file": file.references[0].file,
        "sha256": file.sha256,
        "plugins": sorted({reference.plugin for reference in file.references}),
    }
    try:
        done = "present" if at_place else puller.pull(file)
    except OrchestratorError as error:
        display.failed(file.label, str(error))
        return {**outcome, "outcome": "failed", "size": None, "error": str(error)}
    path = puller.store.find(file.sha256)
    size = None if path is None else path.stat().st_size
    display.finished(file.label, done, size)
    return {**outcome, "outcome": done, "size": size, "error": None}


def _all_right_at_their_place(
    store: ModelStore, file: WantedFile, declared: Sequence[Declared], display: PullDisplay
) -> bool:
    """Whether each plugin has the file at its path already, so that nothing need be fetched."""
    places = [model.place for model in declared if model.reference in file.references]
    if store.find(file.sha256) is not None or not all(place.is_file() for place in places):
        return False
    for place in dict.fromkeys(places):
        got = display.hash(file.label, place)
        if got != file.sha256:
            display.note(file.label, f"{place} has other bytes (SHA-256 {got}); the fetched file is used instead of it")
            return False
    return True


def _say_next(outcomes: Iterable[dict[str, Any]]) -> None:
    fetched, failed = set[str](), set[str]()
    for outcome in outcomes:
        if outcome["outcome"] == "failed":
            failed.update(outcome["plugins"])
        elif outcome["outcome"] != "present":
            fetched.update(outcome["plugins"])
    for plugin in sorted(fetched - failed):
        errors.print(
            f"Next: `orchestrator start {plugin}` (`restart` where it runs with another file).", soft_wrap=True
        )
    if failed:
        errors.print("What was fetched stays: `orchestrator models pull` goes on from there.", soft_wrap=True)


@models.command()
def verify(
    names: Names = None,
    *,
    remove: Annotated[bool, typer.Option(help="Remove wrong files from the store, to be pulled again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hash every model file that has a SHA-256. Exit code 1 if one is wrong."""
    settings = read_settings()
    plugins = _plugins(settings, names)
    store = model_store(settings)
    rows = [row for row in model_rows(store, _declared(settings, plugins), unused=not names) if row.sha256 is not None]
    with PullDisplay() as display, _interruptible():
        rows = [_verified(row, display) for row in rows]
    wrong = [row for row in rows if row.state == "wrong"]
    show_json([asdict(row) for row in rows]) if as_json else print_rows(rows)
    for row in {row.path: row for row in wrong}.values():
        in_store = row.where == "store"
        if in_store and remove:
            _explained(store.remove, row.sha256 or "")
        if not in_store:
            step = f"remove {row.path}, or correct `sha256` in plugin.yaml"
        elif remove:
            step = "removed; `orchestrator models pull` fetches it again"
        else:
            step = "`orchestrator models verify --remove` removes it, and `orchestrator models pull` fetches it again"
        complain(row.file, f"{row.detail}: {step}.")
    if report_unreadable(settings, plugins) or wrong:
        raise typer.Exit(EXIT_FAILED)


def _verified(row: Row, display: PullDisplay) -> Row:
    if row.path is None or row.state not in ("present", "unused"):
        return row
    try:
        got = display.hash(row.label, Path(row.path))
    except OSError as error:
        return replace(row, state="wrong", detail=f"it cannot be read ({error.strerror})")
    if got == row.sha256:
        return replace(row, state="right")
    return replace(row, state="wrong", detail=f"expected SHA-256 {row.sha256}, got {got}")


@models.command("list")
def list_models(*, as_json: AsJson = False) -> None:
    """List all models of all plugins: size, state, where they are; and files of the store that no manifest names. Exit
    code 1 if a manifest cannot be read: its models are missing in the list.
    """
    settings = read_settings()
    plugins = _plugins(settings, None)
    rows = model_rows(model_store(settings), _declared(settings, plugins), unused=True)
    show_json([asdict(row) for row in rows]) if as_json else print_rows(rows)
    if report_unreadable(settings, plugins):
        raise typer.Exit(EXIT_FAILED)


@models.command()
def gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove files of the store that no manifest names, and partial files that nobody has fetched for a week. What a
    living instance has mounted and what is being fetched stays.
    """
    settings = read_settings()
    store = model_store(settings)
    files, partials = store.files(), store.partials()  # before the manifests: what is pulled meanwhile is not in them
    plugins = PluginLoader(settings.plugins_dirs).discover()
    _refuse_if_unknown(settings, plugins)
    named = {
        model.sha256
        for plugin in plugins
        if plugin.manifest is not None
        for model in plugin.manifest.models.values()
        if model.sha256 is not None
    }
    mounted = _mounted(settings) if any(file.sha256 not in named for file in files) else set()
    found = garbage(files, partials, named=named, mounted=mounted, now=datetime.now(UTC))
    if not dry_run:
        for file in found.files:
            _explained(store.remove, file.sha256)
        for partial in found.partials:
            _explained(store.remove_partial, partial.sha256)
        store.sweep()
    if as_json:
        _show_garbage(found, removed=not dry_run)
    else:
        _print_garbage(found, "would be removed" if dry_run else "removed")


def _show_garbage(found: Garbage, *, removed: bool) -> None:
    def sizes(files: Iterable[StoredFile | PartialFile]) -> list[dict[str, Any]]:
        return [{"sha256": file.sha256, "size": file.size} for file in files]

    listed = {"files": sizes(found.files), "partials": sizes(found.partials), "mounted": sizes(found.mounted)}
    show_json({"removed": removed, **listed})


def _print_garbage(found: Garbage, what: str) -> None:
    for file in found.files:
        print_raw(f"{file.sha256} ({format_size(file.size)}): {what}")
    for partial in found.partials:
        print_raw(f"{partial.sha256} ({format_size(partial.size)}, partial): {what}")
    for file in found.mounted:
        print_raw(f"{file.sha256} ({format_size(file.size)}): stays, since an instance has it mounted")
    total = sum(file.size for file in found.files) + sum(partial.size for partial in found.partials)
    print_raw(f"{format_size(total)} {what}.")


def _refuse_if_unknown(settings: Settings, plugins: Sequence[DiscoveredPlugin]) -> None:
    """End the program where a manifest cannot be read: it may name any file."""
    for folder, problem in PluginLoader(settings.plugins_dirs).unusable_directories().items():
        fail(f"The plugin folder {folder} cannot be read ({problem}), so nothing is removed. Correct"
             " ORCHESTRATOR_PLUGINS_DIRS.")  # fmt: skip
    if broken := [plugin for plugin in plugins if plugin.manifest is None]:
        fail(f"Nothing is removed, since the models of {broken[0].name} are not known: {broken[0].error}")


def _mounted(settings: Settings) -> set[str]:
    """The hashes that containers on this engine carry in their labels, whichever orchestrator started them."""
    from orchestrator.app import docker_engine  # noqa: PLC0415  # imports the whole orchestrator, which only this needs
    from orchestrator.supervisor.container_policy import LABEL_MODELS  # noqa: PLC0415

    async def labels() -> list[str]:
        engine = docker_engine(settings)
        try:
            return [container.labels.get(LABEL_MODELS, "") for container in await engine.list({})]
        finally:
            await engine.close()

    try:
        return {sha256 for label in asyncio.run(labels()) for sha256 in label.split(",") if sha256}
    except EngineError as error:
        fail(f"Nothing is removed, since the engine cannot be asked which files are mounted: {error}")


def _plugins(settings: Settings, names: Sequence[str] | None) -> list[DiscoveredPlugin]:
    """The plugins of these names, or all."""
    found = {plugin.name: plugin for plugin in PluginLoader(settings.plugins_dirs).discover()}
    if unknown := set(names or ()) - found.keys():
        fail(f"No plugin named {', '.join(sorted(unknown))}. Plugins: {', '.join(found) or 'none'}.")
    return [found[name] for name in dict.fromkeys(names or found)]


def _declared(settings: Settings, plugins: Iterable[DiscoveredPlugin]) -> list[Declared]:
    found = []
    for plugin in plugins:
        if plugin.manifest is not None:
            locations = locate_models(plugin.manifest, plugin.folder, settings.models_dir)
            references = plugin.manifest.references()
            found += [Declared(*pair) for pair in zip(references, (each.place for each in locations), strict=True)]
    return found


def _explained(work: Callable[[str], object], sha256: str) -> None:
    try:
        work(sha256)
    except ModelStoreError as error:
        fail(str(error))


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
