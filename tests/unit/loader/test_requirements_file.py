"""The files of a plugin's folder that its requirements.txt names: they are there when pip runs, and no others."""

from pathlib import Path, PurePosixPath

import pytest

from orchestrator.errors import BuildError
from orchestrator.loader.build_context import EXCLUDED, content_hash, stage
from orchestrator.loader.image_plan import source_fingerprint
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.requirements_file import lines, named_files

FILES = (
    "package/__init__.py",
    "vendor/x-1.0-py3-none-any.whl",
    "vendor/more/y-1.0.tar.gz",
    "x-1.0-py3-none-any.whl",
    "my wheels/x-1.0-py3-none-any.whl",
    "models/z-1.0-py3-none-any.whl",
    ".wheels/x-1.0-py3-none-any.whl",
    "local/pyproject.toml",
    "local/local/__init__.py",
    "local/__pycache__/x.pyc",
    "lists/more.txt",
    "lists/pins.txt",
    "lists/wheels/w-1.0-py3-none-any.whl",
)
WHEEL = "vendor/x-1.0-py3-none-any.whl"
LOCAL = ["local/local/__init__.py", "local/pyproject.toml"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "plugin" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plugin" / name).write_text("")
    return tmp_path / "plugin"


def named(folder: Path, requirements: str, *excluded: str) -> list[str]:
    """Paths of the files that these requirements name, without requirements.txt itself."""
    (folder / "requirements.txt").write_text(requirements)
    found = [file.path.as_posix() for file in named_files(folder, (*EXCLUDED, *excluded))]
    assert "requirements.txt" in found
    return [path for path in found if path != "requirements.txt"]


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("numpy==2.4.6", []),
        ("numpy == 2.4.6 ; python_version > '3'", []),
        ("torch==2.0 --hash=sha256:00 --hash=sha256:11", []),
        ("name @ https://index.example/x-1.0-py3-none-any.whl", []),
        ("https://index.example/x-1.0-py3-none-any.whl", []),
        ("git+https://forge.example/a/b.git@main#egg=b", []),
        ("-e git+https://forge.example/a/b.git#egg=b", []),
        ("--index-url https://index.example/simple", []),
        ("-f https://index.example/wheels.html", []),
        ("-r https://index.example/requirements.txt", []),
        ("./${FOLDER}/x.whl", []),
        (f"# ./{WHEEL}", []),
        (f"./{WHEEL}", [WHEEL]),
        (WHEEL, [WHEEL]),
        (f"  {WHEEL}   # ours", [WHEEL]),
        (f"{WHEEL} --hash=sha256:00", [WHEEL]),
        (f"./{WHEEL}[extra]", [WHEEL]),
        (f"./{WHEEL}[extra] ; python_version > '3'", [WHEEL]),
        (f"./{WHEEL};python_version>'3'", [WHEEL]),
        (f"./package/../{WHEEL}", [WHEEL]),
        (f"/plugin/{WHEEL}", [WHEEL]),
        (f"file:///plugin/{WHEEL}", [WHEEL]),
        (f"x @ file:///plugin/{WHEEL}", [WHEEL]),
        (f"x[extra]@file:///plugin/{WHEEL} ; python_version > '3'", [WHEEL]),
        (f"file:{WHEEL}", [WHEEL]),
        ("file:my%20wheels/x-1.0-py3-none-any.whl", ["my wheels/x-1.0-py3-none-any.whl"]),
        ("./my wheels/x-1.0-py3-none-any.whl", ["my wheels/x-1.0-py3-none-any.whl"]),
        ("x-1.0-py3-none-any.whl", ["x-1.0-py3-none-any.whl"]),
        ("vendor/more/y-1.0.tar.gz", ["vendor/more/y-1.0.tar.gz"]),
        ("./.wheels/x-1.0-py3-none-any.whl", [".wheels/x-1.0-py3-none-any.whl"]),
        ("models/z-1.0-py3-none-any.whl", ["models/z-1.0-py3-none-any.whl"]),
        (f"\\\n./{WHEEL}", [WHEEL]),
        (f"./{WHEEL} \\\n  --hash=sha256:00", [WHEEL]),
        ("./local", LOCAL),
        ("local/", LOCAL),
        ("./local[extra]", LOCAL),
        ("-e ./local", LOCAL),
        ("-e local", LOCAL),
        ("-elocal", LOCAL),
        ("--editable=./local[extra]", LOCAL),
        ("--editable local", LOCAL),
        ("-f vendor", [WHEEL, "vendor/more/y-1.0.tar.gz"]),
        ("--find-links=./vendor\nx", [WHEEL, "vendor/more/y-1.0.tar.gz"]),
        ('--find-links "my wheels"', ["my wheels/x-1.0-py3-none-any.whl"]),
        ("--no-index --find-links vendor/more", ["vendor/more/y-1.0.tar.gz"]),
        ("-c lists/pins.txt", ["lists/pins.txt"]),
        ("-r lists/more.txt", ["lists/more.txt"]),
        ("--requirement=lists/more.txt", ["lists/more.txt"]),
    ],
)
def test_what_a_line_names_in_the_folder_is_found(folder: Path, line: str, files: list[str]) -> None:
    """In each of the ways that pip takes."""
    assert named(folder, f"{line}\n") == sorted(files)


def test_files_are_found_through_further_requirements_files(folder: Path) -> None:
    """Lists are named from the list's own folder, requirements from the plugin's, as pip does; also in a circle."""
    (folder / "lists" / "more.txt").write_text(f"-r ../requirements.txt\n-c pins.txt\n./{WHEEL}\n-f wheels\n")
    assert named(folder, "-r lists/more.txt\n") == [
        "lists/more.txt",
        "lists/pins.txt",
        "lists/wheels/w-1.0-py3-none-any.whl",
        WHEEL,
    ]


def test_the_whole_folder_comes_without_models_samples_and_tests(folder: Path) -> None:
    """`-e .` names it."""
    found = named(folder, "-e .\n", "local/pyproject.toml")
    assert "package/__init__.py" in found
    assert {"models/z-1.0-py3-none-any.whl", "local/pyproject.toml"}.isdisjoint(found)


@pytest.mark.parametrize(
    "path", ["../x.whl", "./../x.whl", "vendor/../../x.whl", "/home/me/x.whl", "file:///tmp/x.whl"]
)
@pytest.mark.parametrize("option", ["", "-e ", "-r ", "-c ", "-f ", "x @ file:"])
def test_a_path_that_leaves_the_folder_is_refused_with_what_to_do(folder: Path, option: str, path: str) -> None:
    """The error names file and line."""
    line = f"{option}{path.removeprefix('file:') if 'file:' in option else path}"
    with pytest.raises(BuildError, match=r"requirements\.txt line 2: .*x\.whl is outside the plugin's folder; copy it"):
        named(folder, f"numpy==2.4.6\n{line}\n")


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    """What it links to depends on this host."""
    (folder.parent / "x.whl").touch()
    (folder / "x.whl").symlink_to(folder.parent / "x.whl")
    with pytest.raises(BuildError, match=r"requirements\.txt line 1: \./x\.whl is a symbolic link that leads out"):
        named(folder, "./x.whl\n")


@pytest.mark.parametrize("line", ["./vendor/none.whl", "none.whl", "./none", "-r none.txt", "-f none", "-e none"])
def test_a_missing_file_is_named(folder: Path, line: str) -> None:
    """The error names file and line."""
    with pytest.raises(BuildError, match=r"requirements\.txt line 1: .*none\S* is not in the plugin's folder; put it"):
        named(folder, f"{line}\n")


def test_a_link_in_the_folder_is_the_file_it_links_to(folder: Path, tmp_path: Path) -> None:
    """Only the link is named, so pip would find nothing behind it."""
    (folder / WHEEL).write_text("wheel")
    (folder / "link.whl").symlink_to(WHEEL)
    (folder / "requirements.txt").write_text("./link.whl\n")
    stage(named_files(folder, ()), tmp_path / "copy")
    assert (tmp_path / "copy" / "link.whl").read_text() == "wheel"


def test_the_fingerprint_covers_the_files(folder: Path, tmp_path: Path) -> None:
    """Also those that are no part of the plugin's code."""
    for name in ("base/Dockerfile", "runtime/x"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()

    def now() -> str:
        return source_fingerprint(
            ImageRecipe("x", folder), tmp_path / "images", ca_bundle=None, python_image="python:test"
        )

    (folder / "requirements.txt").write_text("./.wheels/x-1.0-py3-none-any.whl\n")
    before = now()
    (folder / ".wheels" / "x-1.0-py3-none-any.whl").write_text("changed")
    assert now() != before


def test_a_folder_without_requirements_names_nothing(folder: Path) -> None:
    """Nothing is installed for it."""
    assert named_files(folder, EXCLUDED) == []
    assert content_hash([]) == content_hash(named_files(folder, EXCLUDED))


def test_lines_are_joined_and_numbered_as_pip_does(folder: Path) -> None:
    """Comments and empty lines are none."""
    (folder / "requirements.txt").write_text("# first\n\na==1 \\\n  --hash=x\nb==2 # why\nc==3 \\\n# end\nd\\")
    found = [(line.where, line.text) for line in lines(folder, PurePosixPath("requirements.txt"))]
    assert found == [
        ("requirements.txt line 3", "a==1   --hash=x"),
        ("requirements.txt line 5", "b==2"),
        ("requirements.txt line 6", "c==3"),
        ("requirements.txt line 8", "d"),
    ]
