"""The Dockerfile of a plugin's image."""

import pytest

from orchestrator.errors import BuildError
from orchestrator.loader.image_recipe import ImageRecipe, plugin_dockerfile, plugin_tag


def test_steps_that_change_seldom_come_first():
    steps = plugin_dockerfile("base:1", ("tesseract-ocr", "libgl1"), requirements=True).split("\n")
    at = {
        word: next(i for i, step in enumerate(steps) if word in step)
        for word in ("apt-get", "pip install", "COPY plugin")
    }
    assert steps[0] == "FROM base:1"
    assert at["apt-get"] < at["pip install"] < at["COPY plugin"]
    assert "    libgl1 tesseract-ocr \\" in steps


def test_nothing_is_installed_for_a_plugin_without_requirements():
    text = plugin_dockerfile("base:1", (), requirements=False)
    assert "apt-get" not in text
    assert "pip" not in text


def test_the_image_ends_with_a_user_that_is_not_root():
    steps = plugin_dockerfile("base:1", ("libgl1",), requirements=True).splitlines()
    assert [step for step in steps if step.startswith("USER")] == ["USER root", "USER 65532:65532"]
    assert steps[-1] == "USER 65532:65532"


def test_the_order_of_packages_does_not_matter():
    one = plugin_dockerfile("base:1", ("b2", "a1", "b2"), requirements=False)
    assert one == plugin_dockerfile("base:1", ("a1", "b2"), requirements=False)


@pytest.mark.parametrize("package", ["x; rm -rf /", "$(id)", "Upper", "a", "", "-y", "a1\nRUN id", "a b"])
def test_an_invalid_package_name_never_reaches_a_shell(package):
    with pytest.raises(BuildError, match="expected the name of a Debian package"):
        plugin_dockerfile("base:1", (package,), requirements=False)


def test_only_base_and_cuda_are_built_on(tmp_path):
    assert not ImageRecipe("x", tmp_path).prebuilt
    assert not ImageRecipe("x", tmp_path, base="cuda").prebuilt
    assert ImageRecipe("x", tmp_path, base="registry.example/x:1").prebuilt


def test_a_tag_names_the_plugin_and_its_content():
    assert plugin_tag("ocr", "0123456789abcdef") == "plugin-orchestrator/plugin-ocr:0123456789ab"
