"""The pages' tables hold what the code holds: routes, statuses, reason codes, manifest fields, commands, exit codes."""

import re
from collections.abc import Iterator
from pathlib import Path

from plugin_runtime.tools.refusals import _TYPE_NAMES
from support.checkout import PROJECT
from support.pages import text_of

from orchestrator.app import create_app
from orchestrator.cli import console
from orchestrator.cli.commands import command_line
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.lifecycle.explanations import EXPLANATIONS
from orchestrator.lifecycle.explanations.page import page
from orchestrator.loader.manifest import Limits, Manifest
from orchestrator.sandbox.call import STATUS
from orchestrator.settings import Settings

API, OPERATING, PLUGINS = "orchestrator/api/README.md", "orchestrator/cli/README.md", "plugins/README.md"
CODES = "plugins/reason-codes.md"
_NEVER_SHOWN = {"exception", "not_kept"}
"""Of the runtime's refusals: what a tool raises has its own name, and the other is between it and the orchestrator."""


def section(page: str, heading: str) -> str:
    """From the heading to the next one of the same level."""
    return re.split(r"^## ", text_of(page).split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


def first_cells(table: str) -> list[str]:
    return re.findall(r"^\| ([^|]+?) \|", table.replace("\\|", "/"), re.MULTILINE)


def test_every_route_is_in_the_table_and_no_other() -> None:
    described = create_app(Settings(state_dir=Path("/nonexistent"))).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    cells = first_cells(text_of(API).split("## ")[0])
    assert {route for cell in cells for route in re.findall(r"`([A-Z]+ [^`]+)`", cell)} == routes


def test_every_status_of_a_run_is_in_the_table() -> None:
    named = {int(number) for cell in first_cells(section(API, "Statuses")) for number in re.findall(r"\d{3}", cell)}
    assert set(STATUS.values()) <= named


def test_every_reason_code_is_in_the_table_of_its_state() -> None:
    for state, what in (
        (PluginLifecycleState.UNAVAILABLE, "something is missing"),
        (PluginLifecycleState.FAILED, "something broke"),
    ):
        codes = set(re.findall(r"^\| `([A-Z_]+)` \|", section(CODES, f"{state}: {what}"), re.MULTILINE))
        assert codes == {code for code in ReasonCode if code.final_state is state}


def test_the_page_of_codes_is_the_one_that_the_table_makes() -> None:
    """`orchestrator explain --markdown >plugins/reason-codes.md` makes it anew."""
    assert text_of(CODES) == page()


def test_every_error_type_is_explained_and_on_the_page_of_the_api() -> None:
    """Those that the code names, those that the runtime does, and no other."""
    named = set(error_types_in_the_code())
    explained = {name for name, each in EXPLANATIONS.items() if each.kind == "error type"}
    listed = section(API, "Statuses").split("`error_type` names the error")[1].split("[Reason codes]")[0]
    assert named <= explained
    assert set(re.findall(r"`([A-Z][a-z]\w+)`", listed)) - {"Retry"} == explained


def error_types_in_the_code() -> Iterator[str]:
    for path in (PROJECT / "orchestrator").rglob("*.py"):
        if {"client", "simulation", "node_modules"}.isdisjoint(path.parts):
            yield from re.findall(r"""error_type=["'](\w+)["']""", path.read_text())
    yield from (name for kind, name in _TYPE_NAMES.items() if kind not in _NEVER_SHOWN)


def test_every_field_of_a_manifest_is_in_the_table() -> None:
    cells = first_cells(section(PLUGINS, "Manifest"))
    named = {field for cell in cells for field in re.findall(r"`(\w+)`", cell)}
    assert named == set(Manifest.model_fields) | set(Limits.model_fields)


def test_every_state_is_in_the_table() -> None:
    assert set(PluginLifecycleState) <= set(first_cells(section(OPERATING, "States")))


def test_every_command_is_in_the_table() -> None:
    """Those that make runs (`up`, `down`) apart."""
    app = command_line()
    shown = {command.name for command in app.registered_commands if not command.hidden}
    shown |= {group.name for group in app.registered_groups}
    cells = first_cells(section(OPERATING, "Commands"))
    named = {name for cell in cells for name in re.findall(r"`([a-z-]+)", cell)}
    assert shown <= named


def test_every_exit_code_is_in_the_table() -> None:
    codes = {value for name, value in vars(console).items() if name.startswith("EXIT_")}
    named = {int(cell) for cell in first_cells(section(OPERATING, "Commands")) if cell.isdigit()}
    assert named == codes | {0, 130}
