"""PluginLoader: every folder with a plugin.yaml is a plugin; a bad manifest never hides another plugin."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from orchestrator.loader.plugin_loader import DiscoveredPlugin, PluginLoader

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPECTED = yaml.safe_load((FIXTURES / "expectations.yaml").read_text())["bad_manifests"]
GOOD = "version: 1.0.0\ndescription: Reads.\nentrypoint: reader.plugin:Reader\n"


def plugin(folder: Path, text: str = GOOD) -> Path:
    """A plugin's folder."""
    folder.mkdir(parents=True)
    (folder / "plugin.yaml").write_text(text)
    return folder


def found(*directories: Path) -> dict[str, DiscoveredPlugin]:
    return {plugin.name: plugin for plugin in PluginLoader(directories).discover()}


@pytest.mark.parametrize("case", EXPECTED, ids=[case["folder"] for case in EXPECTED])
def test_a_bad_manifest_is_listed_and_says_what_is_wrong(case: dict[str, str]) -> None:
    """Each of the bad folders becomes a plugin without manifest, whose error names file and field."""
    folder, phrase = FIXTURES / "bad_manifests" / case["folder"], case["phrase"]
    bad = [p for p in PluginLoader([FIXTURES / "bad_manifests"]).discover() if folder.name in f"{p.name} {p.error}"]
    assert bad, f"{folder.name} is hidden"
    assert all(plugin.manifest is None for plugin in bad)
    assert all(phrase in (plugin.error or "") for plugin in bad)
    assert all(folder.name in (plugin.error or "") for plugin in bad)


def test_no_bad_manifest_goes_untested() -> None:
    """The table and the folders are the same set."""
    folders = {folder.name for folder in (FIXTURES / "bad_manifests").iterdir() if folder.is_dir()}
    assert folders == {case["folder"] for case in EXPECTED}


def test_bad_manifests_hide_no_other_plugin() -> None:
    """The good plugins beside them are all listed, with their manifests."""
    together = found(FIXTURES / "bad_manifests", FIXTURES / "plugins")
    alone = found(FIXTURES / "plugins")
    assert len(alone) > 10
    assert all(plugin.manifest is not None for plugin in alone.values())
    assert {name: together[name].manifest for name in alone} == {name: p.manifest for name, p in alone.items()}


def test_two_folders_of_one_name_are_both_named_and_neither_is_used(tmp_path: Path) -> None:
    """Any choice would be a guess."""
    plugin(tmp_path / "one" / "reader")
    plugin(tmp_path / "two" / "other", "name: reader\n" + GOOD)
    plugins = found(tmp_path / "one", tmp_path / "two")
    assert list(plugins) == ["reader"]
    assert plugins["reader"].manifest is None
    assert "one/reader" in (plugins["reader"].error or "")
    assert "two/other" in (plugins["reader"].error or "")


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("copy", "name: reader\nqueue: many\n" + GOOD),
        ("reader", "queue: ["),
        ("Reader", "queue: ["),
    ],
    ids=["it gives the name", "its folder has the name", "its folder has nearly the name"],
)
def test_a_bad_manifest_does_not_take_a_good_ones_name(tmp_path: Path, folder: str, text: str) -> None:
    """The good plugin works; the bad one is listed beside it, under another name."""
    plugin(tmp_path / "good" / "page-reader", "name: reader\n" + GOOD)
    plugin(tmp_path / "bad" / folder, text)
    plugins = found(tmp_path / "bad", tmp_path / "good")
    assert plugins["reader"].manifest is not None
    assert f"{folder}/plugin.yaml" in (plugins["reader-2"].error or "")


def test_bad_manifests_of_one_name_each_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    """Mending one brings up the other's mistake no later than before."""
    plugin(tmp_path / "a" / "reader", "colour: red\n" + GOOD)
    plugin(tmp_path / "b" / "reader", "flavour: mild\n" + GOOD)
    plugins = found(tmp_path / "a", tmp_path / "b")
    assert "colour" in (plugins["reader"].error or "")
    assert "flavour" in (plugins["reader-2"].error or "")


def test_one_folder_reached_twice_is_one_plugin(tmp_path: Path) -> None:
    """By a link, or by a directory that is configured twice."""
    plugin(tmp_path / "plugins" / "reader")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "reader").symlink_to(tmp_path / "plugins" / "reader")
    plugins = found(tmp_path / "plugins", tmp_path / "links", tmp_path / "plugins")
    assert plugins["reader"].manifest is not None


def test_a_folder_without_manifest_is_no_plugin(tmp_path: Path) -> None:
    """Files, empty folders and caches are common in such directories."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("")
    plugin(tmp_path / "reader")
    assert list(found(tmp_path)) == ["reader"]


def test_a_missing_directory_is_reported_and_hides_nothing(tmp_path: Path) -> None:
    """The others are still searched."""
    plugin(tmp_path / "reader")
    loader = PluginLoader([tmp_path / "nowhere", tmp_path])
    assert [p.name for p in loader.discover()] == ["reader"]
    assert loader.unusable_directories() == {tmp_path / "nowhere": "No such file or directory"}


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("My Plugin", "version: ["),
        ("plugin", "name: Große Übersicht!\n" + GOOD),
        ("plugin", "name: ../../etc\n" + GOOD),
        ("plugin", f"name: {'x' * 100}\n" + GOOD),
        ("plugin", "name: '///'\n" + GOOD),
        ("plugin", "name: [a, b]\n" + GOOD),
        ("---", "name: 5\n" + GOOD),
        ("plugin", 'name: "reader\\n"\n' + GOOD),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_have_its_name_can_still_be_addressed(tmp_path: Path, folder: str, text: str) -> None:
    """It is listed under the nearest name that fits into a route."""
    plugin(tmp_path / folder, text)
    (name,) = found(tmp_path)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


def test_a_fixed_manifest_counts_at_the_next_reload(tmp_path: Path) -> None:
    """From bad to good, and from good to removed."""
    folder = plugin(tmp_path / "reader", "version: [")
    loader = PluginLoader([tmp_path])
    (bad,) = loader.discover()
    (folder / "plugin.yaml").write_text(GOOD)
    good = loader.reload(bad)
    shutil.rmtree(folder)
    removed = loader.reload(good)
    assert bad.manifest is None
    assert good.manifest is not None
    assert removed.manifest is None
    assert "The folder of the plugin 'reader' was removed" in (removed.error or "")
