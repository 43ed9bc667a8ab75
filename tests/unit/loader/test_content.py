"""The files that go into an image, and when their hash changes."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import BuildError
from orchestrator.loader.build_context import EXCLUDED, content_hash, context_files, stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    for name in (
        "plugin.yaml",
        "requirements.txt",
        "package/__init__.py",
        "package/models/table.py",
        "package/__pycache__/x.pyc",
        "package/.hidden",
        ".git/config",
        "samples/page.png",
        "tests/test_x.py",
        "models/weights.onnx",
        "weights/big.pt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names(folder: Path, *more: str) -> list[str]:
    return [file.path.as_posix() for file in context_files(folder, (*EXCLUDED, *more))]


def test_samples_tests_models_caches_and_dot_files_are_excluded(folder):
    assert names(folder, "weights/big.pt") == ["package/__init__.py", "package/models/table.py", "requirements.txt"]


@pytest.mark.parametrize(
    "name", ["plugin.yaml", "samples/page.png", "tests/test_x.py", "models/weights.onnx", "package/__pycache__/x.pyc"]
)
def test_excluded_files_do_not_change_the_hash(folder, name):
    before = content_hash(context_files(folder, EXCLUDED))
    (folder / name).write_text("changed")
    assert content_hash(context_files(folder, EXCLUDED)) == before


def test_content_names_and_executability_change_the_hash(folder):
    file = folder / "package" / "__init__.py"

    def now() -> str:
        return content_hash(context_files(folder, EXCLUDED))

    seen = {now()}
    file.write_text("changed")
    seen.add(now())
    file.chmod(0o755)
    seen.add(now())
    file.rename(folder / "package" / "other.py")
    seen.add(now())
    (folder / "package" / "link").symlink_to("other.py")
    seen.add(now())
    (folder / "package" / "empty").touch()
    seen.add(now())
    assert len(seen) == 6


def test_times_and_modes_of_this_host_do_not_change_the_hash(folder):
    before = content_hash(context_files(folder, EXCLUDED))
    os.utime(folder / "requirements.txt", (1, 1))
    (folder / "requirements.txt").chmod(0o600)
    assert content_hash(context_files(folder, EXCLUDED)) == before


def test_no_text_can_pass_for_another():
    assert len({content_hash([], *texts) for texts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""))}) == 4


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "../secret"])
def test_a_link_that_leaves_the_folder_is_refused(folder, target):
    (folder.parent / "secret").write_text("secret")
    (folder / "package" / "link").symlink_to(target if target != "../secret" else folder.parent / "secret")
    with pytest.raises(BuildError, match=r"package/link is a symbolic link that leads out of the plugin's folder"):
        context_files(folder)


def test_an_excluded_link_out_of_the_folder_is_no_error(folder):
    (folder / "models" / "link").symlink_to("/etc/passwd")
    assert "models/link" not in names(folder)


def test_a_link_within_the_folder_points_to_the_same_file_in_the_image(folder, tmp_path):
    (folder / "package" / "absolute").symlink_to(folder / "requirements.txt")
    (folder / "package" / "relative").symlink_to("../requirements.txt")
    stage(context_files(folder, EXCLUDED), tmp_path / "copy")
    for name in ("absolute", "relative"):
        assert (tmp_path / "copy" / "package" / name).readlink() == Path("../requirements.txt")
        assert (tmp_path / "copy" / "package" / name).read_text() == "requirements.txt"


@pytest.mark.parametrize("excluded", ["weights", "weights/", "./weights", "net"])
def test_a_whole_folder_is_excluded_also_by_a_link_to_it(folder, excluded):
    """As that of a model, whose gigabytes belong in no image."""
    (folder / "weights" / "deep").mkdir()
    (folder / "weights" / "deep" / "bigger.pt").write_text("x")
    (folder / "net").symlink_to("weights")
    found = [name for name in names(folder, excluded) if name.startswith("weights")]
    assert found == []


def test_an_excluded_link_in_a_circle_is_no_error(folder):
    (folder / "net").symlink_to("net")
    assert "net" not in names(folder, "net")


def test_sockets_and_pipes_are_excluded(folder):
    os.mkfifo(folder / "package" / "pipe")
    assert "package/pipe" not in names(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BuildError, match="the folder missing does not exist"):
        context_files(tmp_path / "missing")


def test_a_file_that_cannot_be_read_is_named(folder):
    files = context_files(folder, EXCLUDED)
    (folder / "requirements.txt").unlink()
    with pytest.raises(BuildError, match=r"requirements\.txt cannot be read: No such file"):
        content_hash(files)
    with pytest.raises(BuildError, match=r"requirements\.txt cannot be read: No such file"):
        stage(files, folder.parent / "copy")
