"""An image to be there: its tag, its labels, and the build context that would make it. Reads files; asks no engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.containers.spec import ImageStatus
from orchestrator.errors import BuildError
from orchestrator.loader.build_context import LEFT_OUT, ContextFile, content_hash, context_files, stage
from orchestrator.loader.image_recipe import (
    HASH_LABEL,
    PLUGIN_LABEL,
    REQUIREMENTS,
    SHARED_LABEL,
    SOURCE_LABEL,
    ImageRecipe,
    plugin_dockerfile,
    plugin_tag,
    shared_tag,
)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image, completely. Its tag follows from its content: an image of that tag need not be built."""

    name: str
    tag: str
    kin: Mapping[str, str]
    """Labels of this image and of all that went before it."""
    hashes: Mapping[str, str]
    """Labels of this content."""
    parts: Mapping[str, Sequence[ContextFile]]
    """Folder in the context → its files."""
    texts: Mapping[str, str]
    """File in the context → its content."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Build arguments of this image alone."""

    @property
    def labels(self) -> dict[str, str]:
        """All labels."""
        return {**self.kin, **self.hashes}

    def is_kin(self, image: ImageStatus) -> bool:
        """Whether `image`, which carries the labels `kin`, was made from such a plan.

        A build that failed leaves a nameless image behind with the labels it inherited from its base.
        """
        repository = self.tag.rpartition(":")[0]
        return any(tag.rpartition(":")[0] == repository for tag in image.tags)

    def write_context(self, folder: Path) -> None:
        """Put the build context into `folder`."""
        for name, files in self.parts.items():
            stage(files, folder / name)
        for name, text in self.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")


def shared_plan(kind: str, images_dir: Path, *, ca_bundle: Path | None, python_image: str, python_id: str) -> ImagePlan:
    """The plan of a shared image, built on the Python image with this name and id."""
    own = _own_files(kind, images_dir)
    runtime = context_files(images_dir / "runtime", ("tests",))
    bundle = certificates(ca_bundle) if ca_bundle is not None else ""
    source = content_hash([], kind, content_hash(own), content_hash(runtime), bundle, python_image)
    whole = content_hash([], source, python_id)
    return ImagePlan(
        name=kind,
        tag=shared_tag(kind, whole),
        kin={SHARED_LABEL: kind},
        hashes={HASH_LABEL: whole, SOURCE_LABEL: source},
        parts={".": own, "runtime": runtime},
        texts={"ca-bundle.crt": bundle},
    )


def derived_plan(kind: str, images_dir: Path, base: ImageStatus) -> ImagePlan:
    """The plan of a shared image that is built on the shared image `base`."""
    own = _own_files(kind, images_dir)
    whole = content_hash([], kind, content_hash(own), base.labels.get(HASH_LABEL, base.id))
    return ImagePlan(
        name=kind,
        tag=shared_tag(kind, whole),
        kin={SHARED_LABEL: kind},
        hashes={HASH_LABEL: whole, SOURCE_LABEL: ""},  # not inherited from `base`
        parts={".": own},
        texts={},
        arguments={"BASE_IMAGE": base.tags[0] if base.tags else base.id},
    )


def plugin_plan(recipe: ImageRecipe, base: ImageStatus) -> ImagePlan:
    """The plan of a plugin's image on the shared image `base`."""
    try:
        files = context_files(recipe.folder, (*LEFT_OUT, *recipe.left_out))
        requirements = [file for file in files if file.path.as_posix() == REQUIREMENTS]
        base_tag = base.tags[0] if base.tags else base.id
        dockerfile = plugin_dockerfile(base_tag, recipe.system_packages, requirements=bool(requirements))
        whole = content_hash(files, dockerfile, base.labels.get(HASH_LABEL, base.id))
    except BuildError as error:
        raise BuildError(f"The image of plugin {recipe.name} cannot be built: {error}.") from error
    return ImagePlan(
        name=recipe.name,
        tag=plugin_tag(recipe.name, whole),
        kin={PLUGIN_LABEL: recipe.name},
        # An image inherits the labels of the one it is built on; these two would make it pass for that one.
        hashes={HASH_LABEL: whole, SHARED_LABEL: "", SOURCE_LABEL: ""},
        parts={"plugin": files, ".": requirements},
        texts={"Dockerfile": dockerfile},
    )


def source_fingerprint(recipe: ImageRecipe, images_dir: Path, *, ca_bundle: Path | None, python_image: str) -> str:
    """Hash of all files and settings that a plugin's image is made from; of a prebuilt one its reference. Raises
    `BuildError`.
    """
    if recipe.prebuilt:
        return content_hash([], recipe.base)
    shared = shared_plan("base", images_dir, ca_bundle=ca_bundle, python_image=python_image, python_id="")
    own = content_hash(_own_files(recipe.base, images_dir))
    try:
        files = context_files(recipe.folder, (*LEFT_OUT, *recipe.left_out))
    except BuildError as error:
        raise BuildError(f"The image of plugin {recipe.name} cannot be built: {error}.") from error
    return content_hash(files, shared.hashes[SOURCE_LABEL], own, recipe.base, *sorted(recipe.system_packages))


def _own_files(kind: str, images_dir: Path) -> list[ContextFile]:
    own = context_files(images_dir / kind)
    if not any(file.path.as_posix() == "Dockerfile" for file in own):
        raise BuildError(f"There is no Dockerfile for the image `{kind}` among the plugin images.")
    return own


def certificates(bundle: Path) -> str:
    """The text of a CA bundle. Raises `BuildError` where it cannot be read."""
    try:
        return bundle.read_text("utf-8", "replace")
    except OSError as error:
        raise BuildError(
            f"The CA bundle cannot be read ({error.strerror}): correct ORCHESTRATOR_CA_BUNDLE or remove it."
        ) from error
