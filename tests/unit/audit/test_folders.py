"""What the audit finds in plugin folders, without running their code."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.audit.auditor import audit_folders
from orchestrator.audit.findings import AuditReport, Level
from orchestrator.settings import Settings

GOOD = '''
from plugin_runtime import tool

class Plugin:
    def validate(self) -> None: ...

    @tool
    def read(self, image: bytes, language: str = "eng") -> dict:
        """Read it."""
        return {}
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


def write(
    plugins: Path, code: str = GOOD, *, requirements: str = "", files: dict[str, str] | None = None, **manifest: Any
):
    """A plugin that is valid but for what the test changes."""
    folder = plugins / "reader"
    content = {"version": "1", "description": "Reads.", "entrypoint": "reader.plugin:Plugin", **manifest}
    for path, text in {
        "plugin.yaml": yaml.safe_dump(content),
        "reader/__init__.py": "",
        "reader/plugin.py": textwrap.dedent(code),
        "requirements.txt": requirements,
        "samples/page.png": "",
        "tests/test_plugin.py": "",
        **(files or {}),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def audited(plugins: Path) -> AuditReport:
    return AuditReport.of(audit_folders(Settings(plugins_dirs=(plugins,))))


def found(plugins: Path, level: Level = Level.ERROR) -> list[tuple[str, str]]:
    return [(each.check, each.sentence) for each in audited(plugins).findings if each.level is level]


def test_a_good_plugin_passes(plugins):
    write(plugins, requirements="pillow==12.0.0\nnumpy==2.1.0 ; python_version > '3'\n# a comment\n")
    report = audited(plugins)
    assert report.passed
    assert {finding.level for finding in report.findings} == {Level.OK}


@pytest.mark.parametrize(
    ("calls", "phrase"),
    [
        ("- tools: read", "reader/samples/calls.yaml, line 1: tool: required field is missing"),
        ("- {tool: read, files: {image: page.jpg}}", "samples/page.jpg cannot be read on this host"),
    ],
)
def test_sample_calls_that_cannot_be_made_are_found(plugins, calls, phrase):
    write(plugins, files={"samples/calls.yaml": calls})
    (problem,) = found(plugins)
    assert problem[0] == "samples and tests"
    assert phrase in problem[1]


@pytest.mark.parametrize("folder", ["ocr", "motion_detector", "video_tracker"])
def test_the_shipped_plugins_pass(folder):
    report = audited(Path("plugins"))
    assert [
        each for each in report.findings if each.subject == folder.replace("_", "-") and each.level is not Level.OK
    ] == []


@pytest.mark.parametrize(
    ("code", "check", "phrase"),
    [
        (GOOD.replace("validate", "check"), "validate", "has no validate()"),
        (GOOD.replace("@tool", ""), "tools", "has no tool"),
        (GOOD.replace("image: bytes", "image"), "tools", "without type hints: image"),
        (GOOD.replace('"""Read it."""', ""), "tools", "no docstring"),
        (GOOD.replace("image: bytes", "*image: bytes"), "tools", "*args or **kwargs"),
        (GOOD.replace("class Plugin", "class Other"), "entrypoint", "defines no class Plugin"),
        ("class Plugin(:", "entrypoint", "line 1"),
        ("raise SystemExit(3)\n" + GOOD.replace("class Plugin", "class P"), "entrypoint", "defines no class"),
        ("import cupy\n" + GOOD, "gpu", "imports cupy"),
    ],
)
def test_a_fault_of_the_class_is_named(plugins, code, check, phrase):
    write(plugins, code)
    ((where, sentence),) = found(plugins)
    assert where == check
    assert phrase in sentence


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("pillow", "pillow is not pinned"),
        ("pillow>=12", "pillow is not pinned"),
        ("pillow==12.*", "pillow is not pinned"),
        ("pillow ==", "line 1"),
        ("onnxruntime-gpu==1.20.0", "onnxruntime-gpu"),
        ("./vendor/none-1.0-py3-none-any.whl", "none-1.0-py3-none-any.whl is not in the plugin's folder"),
        ("/home/me/x.whl", "outside the plugin's folder"),
    ],
)
def test_requirements_are_pinned_and_fit(plugins, line, phrase):
    write(plugins, requirements=line + "\n")
    ((_, sentence),) = found(plugins)
    assert phrase in sentence


def test_files_of_the_folder_that_requirements_name_are_well(plugins):
    """They are in the image as they are in the folder."""
    files = {"vendor/x-1.0-py3-none-any.whl": "", "more.txt": "numpy==2.4.6\n"}
    write(plugins, requirements="./vendor/x-1.0-py3-none-any.whl\n-f vendor\n-r more.txt\n", files=files)
    assert found(plugins) == found(plugins, Level.WARNING) == []


def test_requirements_in_further_files_are_pinned_too(plugins):
    """Those of a constraints file limit what is installed, and need not be."""
    files = {"more.txt": "numpy>=2\n", "limits.txt": "scipy<2\n"}
    write(plugins, requirements="-r more.txt\n-c limits.txt\n", files=files)
    ((_, sentence),) = found(plugins)
    assert "more.txt line 1: numpy is not pinned" in sentence


def test_possible_use_of_cuda_is_a_warning(plugins):
    write(plugins, GOOD.replace("return {}", 'return {"device": "cuda"}'))
    assert found(plugins) == []
    assert tuple(check for check, _ in found(plugins, Level.WARNING)) == ("gpu",)
    write(plugins, GOOD.replace("return {}", 'return {"device": "cuda"}'), requires_gpu=True)
    assert found(plugins, Level.WARNING) == []


def test_a_class_is_followed_through_the_folder(plugins):
    """Through imports and base classes."""
    base = GOOD.replace("class Plugin", "class Base")
    write(
        plugins,
        "from reader.inner import Real as Plugin\n",
        files={"reader/inner.py": "from .base import Base\nclass Real(Base):\n    pass\n", "reader/base.py": base},
    )
    assert audited(plugins).passed


def test_a_base_class_from_outside_is_only_a_warning(plugins):
    write(plugins, "import lib\nclass Plugin(lib.Base):\n    pass\n")
    assert found(plugins) == []
    assert [check for check, _ in found(plugins, Level.WARNING)] == ["validate"]


def test_circular_imports_end(plugins):
    write(plugins, "from reader.other import Plugin\n", files={"reader/other.py": "from reader.plugin import Plugin\n"})
    ((check, _),) = found(plugins)
    assert check == "entrypoint"


def test_no_code_of_a_plugin_is_run(plugins, tmp_path):
    write(plugins, f"open({str(tmp_path / 'ran')!r}, 'w')\n" + GOOD)
    assert audited(plugins).passed
    assert not (tmp_path / "ran").exists()


def test_limits_that_make_no_sense(plugins):
    write(plugins, limits={"memory": "64MiB", "shm": "128MiB"})
    ((check, sentence),) = found(plugins)
    assert (check, "limits.shm" in sentence) == ("limits", True)


def test_a_bad_manifest_hides_no_other_plugin(plugins):
    write(plugins)
    (plugins / "broken").mkdir()
    (plugins / "broken" / "plugin.yaml").write_text("version: [")
    report = audited(plugins)
    assert not report.passed
    assert {finding.subject for finding in report.findings} == {"broken", "reader"}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"replicas": 3, "update": {"strategy": "replace"}, "idle": {"after": "10m"}}, None),
        ({"requires_gpu": True, "spread": "gpu", "idle": {"keep": True}}, None),
        ({"requires_gpu": True, "spread": "pack", "gpu": {"sharing": "shared", "memory": "2GiB"}}, None),
        ({"requires_gpu": True, "spread": "pack"}, "needs gpu.sharing: shared"),
        ({"spread": "gpu"}, "spread is set without requires_gpu"),
        ({"idle": {"keep": True}}, "idle.keep is set without requires_gpu"),
    ],
)
def test_what_says_nothing_about_instances_is_a_warning(plugins, manifest, said):
    """Its author expects an effect that it does not have."""
    write(plugins, **manifest)
    sentences = [sentence for check, sentence in found(plugins, Level.WARNING) if check == "instances"]
    assert len(sentences) == (0 if said is None else 1)
    assert said is None or said in sentences[0]


def test_a_tool_that_mcp_clients_do_not_get_is_named(plugins: Path) -> None:
    """A warning, not an error: over HTTP it works."""
    write(plugins, GOOD.replace("def read(", "def größe("))
    assert found(plugins) == []
    ((check, sentence),) = [each for each in found(plugins, Level.WARNING) if "MCP" in each[1]]
    assert check == "tools" and "'reader.größe'" in sentence
