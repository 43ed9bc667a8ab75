"""Image plans: tag, labels and build context of each kind of image. Reads files, does not call the engine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.containers.spec import ImageStatus
from orchestrator.errors import BuildError
from orchestrator.loader.build_context import EXCLUDED, ContextFile, content_hash, context_files, stage
from orchestrator.loader.image_recipe import (
    HASH_LABEL,
    PACKAGES_LABEL,
    PLUGIN_LABEL,
    SHARED_LABEL,
    SOURCE_LABEL,
    ImageRecipe,
    install_script,
    packages_tag,
    plugin_dockerfile,
    plugin_tag,
    shared_tag,
)
from orchestrator.loader.requirements_file import CODE_FOLDER, REQUIREMENTS, named_files

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN_IMAGE_TAG: Final = "plugin-orchestrator/orchestrator:latest"
"""The orchestrator's own image in compose.yaml."""
_OWN_IMAGE: Final = "orchestrator"
TESTING_IMAGE: Final = "orchestrator-testing"
_SIMULATION: Final = "simulation"
"""The package that the testing image has, and the orchestrator's own has not."""
_DISTRIBUTION: Final = "plugin-orchestrator"
# Sources of images; the orchestrator's own image contains them too, because it builds plugins' images.
_SOURCES: Final = ("base", "cuda", _OWN_IMAGE, "runtime")


_TESTING_DOCKERFILE: Final = """\
FROM {base}
COPY simulation /tmp/simulation
RUN packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \\
 && cp -R /tmp/simulation "$packages/orchestrator/" \\
 && rm -r /tmp/simulation && touch /etc/plugin-orchestrator-testing
ENTRYPOINT ["python", "-I", "-m", "orchestrator.simulation.entrypoint"]
CMD []
"""


@dataclass(frozen=True, slots=True)
class Installs:
    """An image that a script makes, in a container of `base`, in place of a Dockerfile."""

    base: str
    script: str


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image, completely. Its tag follows from its content: an image with that tag need not be built."""

    name: str
    tag: str
    family_labels: Mapping[str, str]  # labels of this image and of its earlier versions
    hashes: Mapping[str, str]  # labels of this content
    folders: Mapping[str, Sequence[ContextFile]]  # folder in the context → its files
    texts: Mapping[str, str]  # file in the context → its content
    arguments: Mapping[str, str] = field(default_factory=dict)  # build arguments of this image alone
    installs: Installs | None = None

    @property
    def labels(self) -> dict[str, str]:
        return {**self.family_labels, **self.hashes}

    def in_family(self, image: ImageStatus) -> bool:
        """Whether `image`, which has the family labels, is this image or an earlier version."""
        # A failed build leaves an untagged image behind, with labels inherited from its base.
        return bool(self.family_tags(image))

    def family_tags(self, image: ImageStatus) -> tuple[str, ...]:
        """The names that were given to `image` here. Others are somebody else's."""
        repository = self.tag.rpartition(":")[0]
        return tuple(tag for tag in image.tags if tag.rpartition(":")[0] == repository)

    def write_context(self, folder: Path) -> None:
        """Write the build context into `folder`."""
        for name, files in self.folders.items():
            stage(files, folder / name)
        write_texts(folder, self.texts)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files into `folder`, by their paths in it."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def shared_plan(kind: str, images_dir: Path, *, ca_bundle: Path | None, python_image: str, python_id: str) -> ImagePlan:
    """The plan of a shared image on the Python image with this name and id."""
    own = _own_files(kind, images_dir)
    runtime = context_files(images_dir / "runtime", ("tests",))
    bundle = _certificates(ca_bundle)
    source = content_hash([], kind, content_hash(own), content_hash(runtime), bundle, python_image)
    content = content_hash([], source, python_id)
    return ImagePlan(
        name=kind,
        tag=shared_tag(kind, content),
        family_labels={SHARED_LABEL: kind},
        hashes={HASH_LABEL: content, SOURCE_LABEL: source},
        folders={".": own, "runtime": runtime},
        texts={"ca-bundle.crt": bundle},
    )


def derived_plan(kind: str, images_dir: Path, base: ImageStatus) -> ImagePlan:
    """The plan of a shared image on the shared image `base`."""
    own = _own_files(kind, images_dir)
    content = content_hash([], kind, content_hash(own), base.labels.get(HASH_LABEL, base.id))
    return ImagePlan(
        name=kind,
        tag=shared_tag(kind, content),
        family_labels={SHARED_LABEL: kind},
        hashes={HASH_LABEL: content, SOURCE_LABEL: ""},  # overrides the label inherited from `base`
        folders={".": own},
        texts={},
        arguments={"BASE_IMAGE": base.tags[0] if base.tags else base.id},
    )


def needs_packages(recipe: ImageRecipe) -> bool:
    """Whether the plugin requires packages, of Debian or of Python."""
    return bool(recipe.system_packages) or (recipe.folder / REQUIREMENTS).is_file()


def packages_plan(recipe: ImageRecipe, base: ImageStatus) -> ImagePlan:
    """The plan of the image under a plugin's, which has its packages on the shared image `base`."""
    try:
        files = _package_files(recipe)
        script = install_script(recipe.system_packages, requirements=bool(files))
        content = content_hash(files, script, base.labels.get(HASH_LABEL, base.id))
    except BuildError as error:
        raise _cannot_build(recipe, error) from error
    return ImagePlan(
        name=recipe.name,
        tag=packages_tag(recipe.name, content),
        family_labels={PACKAGES_LABEL: recipe.name},
        hashes={HASH_LABEL: content, SHARED_LABEL: "", SOURCE_LABEL: ""},
        folders={CODE_FOLDER.relative_to("/").as_posix(): files},
        texts={},
        installs=Installs(base.tags[0] if base.tags else base.id, script),
    )


def plugin_plan(recipe: ImageRecipe, base: ImageStatus) -> ImagePlan:
    """The plan of a plugin's image on the image `base`, which has its packages."""
    try:
        packages, code = _package_files(recipe), _plugin_files(recipe)
        dockerfile = plugin_dockerfile(base.tags[0] if base.tags else base.id, recipe.module)
        content = content_hash(code, dockerfile, base.labels.get(HASH_LABEL, base.id))
    except BuildError as error:
        raise _cannot_build(recipe, error) from error
    return ImagePlan(
        name=recipe.name,
        tag=plugin_tag(recipe.name, content),
        family_labels={PLUGIN_LABEL: recipe.name},
        # An image inherits its base's labels; unless overridden, these would make it pass for the base.
        hashes={HASH_LABEL: content, PACKAGES_LABEL: "", SHARED_LABEL: "", SOURCE_LABEL: ""},
        # What is there for pip's sake is there once: image sizes are the sum of their layers.
        folders={"plugin": _without(code, packages)},
        texts={"Dockerfile": dockerfile},
    )


def own_image_plan(images_dir: Path, *, ca_bundle: Path | None, python_image: str, python_id: str) -> ImagePlan:
    """The plan of the orchestrator's own image on the Python image with this name and id, made from what is installed
    here: a checkout and a wheel give the same. Raises `BuildError`.
    """
    dockerfile = context_files(images_dir / _OWN_IMAGE)
    site = dict(_site_packages(images_dir))
    texts = {
        "requirements.txt": "".join(f"{line}\n" for line in pinned_requirements(_DISTRIBUTION)),
        "ca-bundle.crt": _certificates(ca_bundle),
        **_distribution_metadata(),
    }
    hashes = [f"{name} {content_hash(files)}" for name, files in sorted(site.items())]
    source = content_hash(dockerfile, python_image, *hashes, *(texts[name] for name in sorted(texts)))
    content = content_hash([], source, python_id)
    return ImagePlan(
        name=_OWN_IMAGE,
        tag=shared_tag(_OWN_IMAGE, content),
        family_labels={SHARED_LABEL: _OWN_IMAGE},
        hashes={HASH_LABEL: content, SOURCE_LABEL: source},
        folders={".": dockerfile, **site},
        texts=texts,
    )


def simulation_image_plan(own: ImageStatus) -> ImagePlan:
    """The plan of the image for tests of other projects: the own image with the package that makes faults. Raises
    `BuildError`.
    """
    package = context_files(_package("orchestrator") / _SIMULATION)
    dockerfile = _TESTING_DOCKERFILE.format(base=own.tags[0] if own.tags else own.id)
    content = content_hash(package, dockerfile, own.labels.get(HASH_LABEL, own.id))
    return ImagePlan(
        name=TESTING_IMAGE,
        tag=shared_tag(TESTING_IMAGE, content),
        family_labels={SHARED_LABEL: TESTING_IMAGE},
        hashes={HASH_LABEL: content, SOURCE_LABEL: ""},
        folders={_SIMULATION: package},
        texts={"Dockerfile": dockerfile},
    )


def source_fingerprint(recipe: ImageRecipe, images_dir: Path, *, ca_bundle: Path | None, python_image: str) -> str:
    """Hash of all files and settings that a plugin's image is made from; of a prebuilt one's reference. Raises
    `BuildError`.
    """
    if recipe.prebuilt:
        return content_hash([], recipe.base)
    shared = shared_plan("base", images_dir, ca_bundle=ca_bundle, python_image=python_image, python_id="")
    own = content_hash(_own_files(recipe.base, images_dir))
    try:
        packages, code = _package_files(recipe), _plugin_files(recipe)
        requirements = content_hash(packages)
    except BuildError as error:
        raise _cannot_build(recipe, error) from error
    return content_hash(
        code, requirements, shared.hashes[SOURCE_LABEL], own, recipe.base, *sorted(recipe.system_packages)
    )


def runtime_packages(images_dir: Path) -> set[str]:
    """Names of the Python packages that every plugin's image has for the runtime, and that no plugin can replace."""
    try:
        lines = (images_dir / "runtime" / "constraints.txt").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return {"plugin-runtime", *(line.partition("==")[0] for line in lines if "==" in line)}


def pinned_requirements(distribution: str) -> list[str]:
    """All requirements of the distribution on this Python, in their installed versions. Raises `BuildError`."""
    from packaging.utils import canonicalize_name  # noqa: PLC0415  its many regexes are only needed to build images

    found: dict[str, str] = {}
    waiting = [(distribution, "")]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        for requirement in _requirements(name, extra):
            key = canonicalize_name(requirement.name)
            found[key] = _version(key)
            needed = {(key, each) for each in ("", *requirement.extras)} - seen
            seen |= needed
            waiting += sorted(needed)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _plugin_files(recipe: ImageRecipe) -> list[ContextFile]:
    return context_files(recipe.folder, (*EXCLUDED, *recipe.excluded))


def _package_files(recipe: ImageRecipe) -> list[ContextFile]:
    return named_files(recipe.folder, (*EXCLUDED, *recipe.excluded))


def _without(files: Iterable[ContextFile], others: Iterable[ContextFile]) -> list[ContextFile]:
    paths = {other.path for other in others}
    return [file for file in files if file.path not in paths]


def _cannot_build(recipe: ImageRecipe, error: BuildError) -> BuildError:
    return BuildError(f"The image of plugin {recipe.name} cannot be built: {error}.")


def _own_files(kind: str, images_dir: Path) -> list[ContextFile]:
    own = context_files(images_dir / kind)
    if not any(file.path.as_posix() == "Dockerfile" for file in own):
        raise BuildError(f"The plugin images have no Dockerfile for the image `{kind}`.")
    return own


def _certificates(bundle: Path | None) -> str:
    if bundle is None:
        return ""
    try:
        return bundle.read_text("utf-8", "replace")
    except OSError as error:
        raise BuildError(
            f"The CA bundle cannot be read ({error.strerror}): correct ORCHESTRATOR_CA_BUNDLE or remove it."
        ) from error


def _requirements(name: str, extra: str) -> Iterator["Requirement"]:
    from packaging.requirements import Requirement  # noqa: PLC0415  as above

    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        raise BuildError(
            f"The orchestrator's image cannot be planned: its requirement {name} is not installed."
        ) from None


def _site_packages(images_dir: Path) -> Iterator[tuple[str, Sequence[ContextFile]]]:
    """Folder in the context → its files."""
    yield "site/orchestrator", context_files(_package("orchestrator"), ("_plugin_images", _SIMULATION))
    yield "site/plugin_runtime", context_files(_package("plugin_runtime"))
    for folder in _SOURCES:
        yield f"site/orchestrator/_plugin_images/{folder}", context_files(images_dir / folder)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise BuildError(f"The orchestrator's image cannot be planned: the package {name} is not installed.")
    return Path(spec.origin).parent


def _distribution_metadata() -> Mapping[str, str]:
    """The METADATA file by which Python recognises the distribution as installed, and its version."""
    version = metadata.version(_DISTRIBUTION)
    folder = f"site/{_DISTRIBUTION.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in metadata.requires(_DISTRIBUTION) or ())
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\nVersion: {version}\n{needs}"}
