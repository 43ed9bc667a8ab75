"""`new` creates a plugin whose own tests pass at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from orchestrator.audit.auditor import audit_folders
from orchestrator.audit.findings import Level
from orchestrator.cli import commands
from orchestrator.cli.scaffold import Kind, scaffold
from orchestrator.loader.manifest import read_manifest
from orchestrator.settings import Settings


@pytest.fixture
def new(monkeypatch, tmp_path):
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(commands.command_line("new"), ["new", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(Kind))
def test_its_tests_pass_without_a_container(new, tmp_path, kind):
    result = new("page-counter", "--kind", kind)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "page_counter"
    assert read_manifest(folder).name == "page-counter"
    tests = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-k", "not container", str(folder)]
    done = subprocess.run(tests, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("kind", list(Kind))
def test_it_passes_the_audit(new, tmp_path, kind):
    new("page-counter", "--kind", kind)
    requirements = tmp_path / "page_counter" / "requirements.txt"
    for text in (requirements.read_text(), requirements.read_text().rpartition(": ")[2]):  # with the example, too
        requirements.write_text(text)
        findings = audit_folders(Settings())
        assert len(findings) > 5
        assert [finding for finding in findings if finding.level is not Level.OK] == []


def test_its_failure_policy_is_chosen_and_explained(new, tmp_path):
    new("page-counter")
    text = (tmp_path / "page_counter" / "plugin.yaml").read_text()
    assert "\nfailure_policy: strict\n" in text
    comment = text[: text.index("\nfailure_policy:")]
    assert "tolerant" in comment and "operator restarts" in comment
    assert read_manifest(tmp_path / "page_counter").failure_policy == "strict"


@pytest.mark.engine
def test_its_tests_pass_in_a_container(new, tmp_path):
    new("page-counter")
    tests = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", str(tmp_path / "page_counter")]
    done = subprocess.run(tests, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["Counter", "a_b", "-a", "a/b", ""])
def test_an_invalid_name_is_refused(new, tmp_path, name):
    assert new("--", name).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(new, tmp_path):
    assert new("counter").exit_code == 0
    (tmp_path / "counter" / "counter" / "plugin.py").write_text("mine")
    assert new("counter").exit_code == 1
    assert (tmp_path / "counter" / "counter" / "plugin.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["9lives", "a", "x-1", "class", "tests", "json"])
def test_odd_names_give_code_that_compiles(name):
    files = scaffold(name, Kind.TEXT)
    assert len(files) == 7
    for path, content in files.items():
        if path.endswith(".py"):
            compile(content, path, "exec")
