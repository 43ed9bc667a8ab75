"""The pre-commit hook: it has the required checks, in their order, and refuses a bad commit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.checkout import PROJECT

CONFIG = PROJECT / ".pre-commit-config.yaml"
TOOLS = """
[tool.mypy]
files = ["package"]
strict = true
[tool.pytest.ini_options]
markers = ["engine", "slow"]
pythonpath = ["."]
"""
CLEAN = 'def half(number: int) -> float:\n    """Half of it."""\n    return number / 2\n'


def hooks() -> dict[str, dict]:
    (repository,) = yaml.safe_load(CONFIG.read_text())["repos"]
    return {hook["id"]: hook for hook in repository["hooks"]}


def test_the_checks_have_the_required_order():
    """Tests, lint that fixes, types, then the page's types and lint."""
    entries = [hook["entry"] for hook in hooks().values()]
    wanted = ["pytest", "ruff check --fix", "mypy", "run --silent type-check", "run --silent lint"]
    assert len(entries) == len(wanted)
    assert all(words in entry for entry, words in zip(entries, wanted, strict=True))


def test_the_hook_and_ci_run_the_same_checks():
    """`make check` or `make test` refuses whatever the hook refuses; CI calls those two and nothing else."""
    makefile = (PROJECT / "Makefile").read_text()
    for words in ("ruff check", "mypy", "type-check", "lint", "pytest"):
        assert words in makefile
    jobs = yaml.safe_load((PROJECT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = [step["run"].split()[:2] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == [["make", "check"], ["make", "test"]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project with this hook: its own small package and tests, our tools."""
    for path, text in {
        "pyproject.toml": TOOLS,
        "package/__init__.py": '"""A package."""\n',
        "package/numbers.py": CLEAN,
        "tests/test_numbers.py": "from package.numbers import half\n\n\ndef test_half():\n    assert half(4) == 2\n",
        ".gitignore": ".venv\n__pycache__\n.*_cache\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    shutil.copy(CONFIG, tmp_path)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.email", "someone@example.org")
    git(tmp_path, "config", "user.name", "Someone")
    installed = subprocess.run(
        [sys.executable, "-m", "pre_commit", "install"],
        check=False,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """Without the variables of a surrounding commit or test run."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_", "COV_"))}
    return inherited | {"PRE_COMMIT_HOME": str(folder / ".git" / "pre-commit"), "PYTHONPATH": ""}


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def commit(folder: Path) -> subprocess.CompletedProcess[str]:
    git(folder, "add", "--all")
    return git(folder, "commit", "-m", "a change")


@pytest.mark.slow
def test_good_commits_go_through_and_bad_ones_are_refused(repository):
    """A test that fails, code that lint cannot fix, a function without types: each is refused by its own check."""
    done = commit(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    for path, text, refused_by in (
        ("tests/test_numbers.py", "def test_half():\n    assert False\n", "tests that need no engine"),
        ("package/numbers.py", CLEAN + "\n\ndef lost() -> int:\n    return undefined\n", "lint"),
        ("package/numbers.py", CLEAN.replace("number: int", "number"), "types"),
    ):
        good = (repository / path).read_text()
        (repository / path).write_text(text)
        done = commit(repository)
        assert done.returncode != 0
        (failed,) = [line for line in (done.stdout + done.stderr).splitlines() if line.endswith("Failed")]
        assert failed.startswith(refused_by)
        (repository / path).write_text(good)
    assert git(repository, "log", "--oneline").stdout.count("\n") == 1


def test_the_templates_checklist_names_what_is_not_negotiable():
    """The rules that no change may break."""
    template = (PROJECT / ".github" / "pull_request_template.md").read_text()
    for rule in ("container", "five states", "200 or 404", "thread-safe", "VideoTracker", "pre-commit install"):
        assert rule in template
