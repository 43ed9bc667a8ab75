"""What the pages' blocks of code say works: Python imports, YAML and JSON parse, commands and routes exist."""

import ast
import json
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from support.pages import FRONT, PROJECT, Block, blocks, inline_code, pages, text_of
from support.webhook_receiver import SECRET

from orchestrator.app import create_app
from orchestrator.audit.auditor import audit_folders
from orchestrator.audit.findings import Level
from orchestrator.cli.commands import command_line
from orchestrator.front.hosts_file import read_hosts_file
from orchestrator.loader.manifest import Manifest, read_manifest
from orchestrator.loader.samples import SampleCall
from orchestrator.settings import Settings
from orchestrator.webhooks.config import load_webhooks

OURS = ("orchestrator", "plugin_runtime")
OTHER_PROGRAMS = {"chmod", "docker", "export", "openssl", "pip", "uv"}
"""Programs that are not this project's: what follows their names is not checked here."""
_MINIMAL = {"name": "a-plugin", "version": "1", "description": "A plugin.", "entrypoint": "a.plugin:A"}
_ADDRESS = "localhost:8000"
_READERS_OWN = re.compile(r"^plugins/hello(/|$)")
"""The plugin that a reader writes."""


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_parses_and_what_it_imports_exists(block: Block) -> None:
    """Imports of this project's own packages, name by name."""
    tree = compile(block.text, block.page, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_parses_and_a_manifest_is_one(block: Block, tmp_path: Path) -> None:
    """Whole manifests, and excerpts of one; sample calls; webhooks; hosts."""
    content = yaml.safe_load(block.text)
    if isinstance(content, list) and "url" in content[0]:
        for entry in content:
            (tmp_path / entry["secret_file"]).write_text(SECRET)
        (tmp_path / "webhooks.yaml").write_text(block.text)
        assert len(load_webhooks(tmp_path / "webhooks.yaml")) == len(content)
    elif isinstance(content, list) and "address" in content[0]:
        (tmp_path / "hosts.yaml").write_text(block.text)
        assert len(read_hosts_file(tmp_path / "hosts.yaml").hosts) == len(content)
    elif isinstance(content, list):
        assert [SampleCall.model_validate(call) for call in content]
    elif set(content) <= set(Manifest.model_fields):
        Manifest.model_validate(_MINIMAL | content)
    else:
        assert "scrape_configs" in content, "a block that is neither a manifest nor for Prometheus"


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


def test_the_plugin_of_the_front_page_works(tmp_path: Path) -> None:
    """The manifest is valid, the audit finds no error, and the tools return what the page shows."""
    here = [block for block in blocks("yaml", "python") if block.page == FRONT]
    manifest, source = here
    folder = tmp_path / "hello"
    (folder / "hello").mkdir(parents=True)
    (folder / "plugin.yaml").write_text(manifest.text)
    (folder / "hello" / "__init__.py").touch()
    (folder / "hello" / "plugin.py").write_text(source.text)
    assert read_manifest(folder).name == "hello"
    found = audit_folders(Settings(plugins_dirs=(tmp_path,)))
    assert [finding for finding in found if finding.level is Level.ERROR] == []
    names: dict = {}
    exec(compile(source.text, "hello/plugin.py", "exec"), names)
    plugin = names["Hello"]()
    plugin.validate()
    assert f"\n{plugin.greet('Ada', 2)}\n" in text_of(FRONT)
    assert plugin.count_letters(b"a 1 b") == {"letters": 2}
    assert [item for item in plugin.countdown(3) if isinstance(item, int)] == [3, 2, 1]


def commands() -> Iterator[tuple[str, str]]:
    """Page and command line: those of shell blocks, one that is broken over lines whole, and those within sentences."""
    for block in blocks("console"):
        lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
        yield from ((block.page, line.removeprefix("$ ")) for line in lines if line.startswith("$ "))
    ours = re.compile(r"(\.venv/bin/)?(orchestrator|pytest) |make [a-z]")
    for page in set(pages()) - {"CHANGELOG.md"}:  # whose earlier entries name what was there then
        yield from ((page, code) for code in inline_code(page) if ours.match(code) and "COMMAND" not in code)


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_every_command_can_be_given(page: str, line: str) -> None:
    """Its program, its options and its arguments, as far as this project has the say."""
    line = re.sub(r"(?<=\s)#.*$", "", line)
    program, *arguments = shlex.split(re.split(r"\s\|\s", line)[0])  # what is behind a pipe is another's
    while "=" in program:  # variables that are set for it
        program, *arguments = arguments
    match program.removeprefix(".venv/bin/"):
        case "orchestrator":
            _parse(_command_line(), arguments)
        case "make":
            targets = {word for word in arguments if "=" not in word}
            assert targets <= set(re.search(r"\.PHONY: (.*)", (PROJECT / "Makefile").read_text())[1].split())
        case "pytest" | "python":
            named = [word for word in arguments if "/" in word and not _READERS_OWN.match(word)]
            assert [word for word in named if not (PROJECT / word).exists()] == []
        case "curl":
            _check_curl(arguments)
        case script if "/" in script:
            assert os.access(PROJECT / script, os.X_OK), f"{page} runs {script}, which is no program of this project"
        case other:
            assert other in OTHER_PROGRAMS, f"{page} runs {other}: check here what it is given"


@cache
def _command_line() -> Any:
    return typer.main.get_command(command_line())


def _parse(command: Any, arguments: list[str], parent: Any = None) -> None:
    """As the command line does, without running anything. Raises typer's usage errors."""
    name = command.name or "orchestrator"
    acting = {option for param in command.params for option in param.opts} if parent is None else ()
    if arguments and arguments[0] in acting:  # --version, --install-completion: they act while they are parsed
        return
    context = command.make_context(name, list(arguments), parent=parent)
    if hasattr(command, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        _, inner, rest = command.resolve_command(context, rest)
        _parse(inner, rest, context)


@cache
def _routes() -> dict[str, set[str]]:
    """Pattern of each route's path → its methods."""
    described = create_app(Settings(state_dir=Path("/nonexistent"))).openapi()["paths"]
    return {
        re.sub(r"\{\w+\}", "[^/]+", path): {method.upper() for method in methods} for path, methods in described.items()
    }


def _check_curl(arguments: list[str]) -> None:
    (address,) = (word for word in arguments if word.startswith(_ADDRESS))
    path = address.removeprefix(_ADDRESS).partition("?")[0]
    sends = any(word in ("-F", "-d", "--data-binary") for word in arguments)
    method = arguments[arguments.index("-X") + 1] if "-X" in arguments else "POST" if sends else "GET"
    assert any(re.fullmatch(route, path) and method in methods for route, methods in _routes().items()), (method, path)
    uploads = [word.partition("@")[2] for word in arguments if "@" in word]
    assert [name for name in uploads if "/" in name and not (PROJECT / name).is_file()] == []
