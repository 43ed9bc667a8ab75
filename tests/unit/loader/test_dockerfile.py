"""What a plugin's image is made by: a script for its packages, a Dockerfile for its code."""

import pytest

from orchestrator.errors import BuildError
from orchestrator.loader.image_recipe import ImageRecipe, install_script, plugin_dockerfile, plugin_tag


def test_the_image_ends_with_a_user_that_is_not_root():
    steps = plugin_dockerfile("base:1").splitlines()
    assert steps[0] == "FROM base:1"
    assert [step for step in steps if step.startswith("USER")] == ["USER root", "USER 65532:65532"]
    assert steps[-1] == "USER 65532:65532"


def test_the_code_that_the_entrypoint_needs_has_to_compile_on_the_images_own_python():
    check = " && python -I -m plugin_runtime.startup.own_code hello.plugin /plugin"
    assert [step.endswith(check) for step in plugin_dockerfile("base:1", "hello.plugin").splitlines()].count(True) == 1
    assert "own_code" not in plugin_dockerfile("base:1")


def test_debian_packages_come_before_pythons():
    script = install_script(("tesseract-ocr", "libgl1"), requirements=True)
    assert "install --yes --no-install-recommends libgl1 tesseract-ocr\n" in script
    assert script.index("apt-get") < script.index("pip.conf")


def test_what_is_not_required_is_not_installed():
    assert "apt-get" not in install_script((), requirements=True)
    assert "pip" not in install_script(("libgl1",), requirements=False)


def test_the_order_of_packages_does_not_matter():
    one = install_script(("b2", "a1", "b2"), requirements=False)
    assert one == install_script(("a1", "b2"), requirements=False)


@pytest.mark.parametrize("package", ["x; rm -rf /", "$(id)", "Upper", "a", "", "-y", "a1\nRUN id", "a b"])
def test_an_invalid_package_name_never_reaches_a_shell(package):
    with pytest.raises(BuildError, match="expected the name of a Debian package"):
        install_script((package,), requirements=False)


def test_only_base_and_cuda_are_built_on(tmp_path):
    assert not ImageRecipe("x", tmp_path).prebuilt
    assert not ImageRecipe("x", tmp_path, base="cuda").prebuilt
    assert ImageRecipe("x", tmp_path, base="registry.example/x:1").prebuilt


def test_a_tag_names_the_plugin_and_its_content():
    assert plugin_tag("ocr", "0123456789abcdef") == "plugin-orchestrator/plugin-ocr:0123456789ab"
