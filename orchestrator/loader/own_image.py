"""The orchestrator's own image, planned from what is installed here: a checkout and a wheel give the same."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import BuildError
from orchestrator.loader.build_context import ContextFile, content_hash, context_files
from orchestrator.loader.image_plan import ImagePlan, certificates
from orchestrator.loader.image_recipe import HASH_LABEL, SHARED_LABEL, SOURCE_LABEL, shared_tag

if TYPE_CHECKING:
    from packaging.requirements import Requirement

KIND: Final = "orchestrator"
LATEST: Final = "plugin-orchestrator/orchestrator:latest"
"""The name that compose.yaml asks for."""
_DISTRIBUTION: Final = "plugin-orchestrator"
_SOURCES: Final = ("base", "cuda", KIND, "runtime")
"""What images are built from, in the image too: it builds those of plugins."""


def own_image_plan(images_dir: Path, *, ca_bundle: Path | None, python_image: str, python_id: str) -> ImagePlan:
    """The plan of the orchestrator's image on the Python image with this name and id. Raises `BuildError`."""
    dockerfile = context_files(images_dir / KIND)
    parts = dict(_site(images_dir))
    texts = {
        "requirements.txt": "".join(f"{line}\n" for line in pinned_requirements(_DISTRIBUTION)),
        "ca-bundle.crt": certificates(ca_bundle) if ca_bundle is not None else "",
        **_installed_as(),
    }
    hashes = [f"{name} {content_hash(files)}" for name, files in sorted(parts.items())]
    source = content_hash(dockerfile, python_image, *hashes, *(texts[name] for name in sorted(texts)))
    whole = content_hash([], source, python_id)
    return ImagePlan(
        name=KIND,
        tag=shared_tag(KIND, whole),
        kin={SHARED_LABEL: KIND},
        hashes={HASH_LABEL: whole, SOURCE_LABEL: source},
        parts={".": dockerfile, **parts},
        texts=texts,
    )


def pinned_requirements(distribution: str) -> list[str]:
    """All that the distribution needs on this Python, each in the version that is installed. Raises `BuildError`."""
    from packaging.utils import canonicalize_name  # noqa: PLC0415  # its many regexes are for whoever builds images only

    found: dict[str, str] = {}
    waiting = [(distribution, "")]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        for requirement in _requirements(name, extra):
            key = canonicalize_name(requirement.name)
            found[key] = _version(key)
            wanted = {(key, wish) for wish in ("", *requirement.extras)} - seen
            seen |= wanted
            waiting += sorted(wanted)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _requirements(name: str, extra: str) -> Iterator["Requirement"]:
    from packaging.requirements import Requirement  # noqa: PLC0415  # as above

    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        raise BuildError(
            f"The image of the orchestrator cannot be planned: {name}, which it needs, is not installed."
        ) from None


def _site(images_dir: Path) -> Iterator[tuple[str, Sequence[ContextFile]]]:
    """Folder in the context → its files: the packages as they lie in site-packages."""
    yield "site/orchestrator", context_files(_package("orchestrator"), ("_plugin_images",))
    yield "site/plugin_runtime", context_files(_package("plugin_runtime"))
    for folder in _SOURCES:
        yield f"site/orchestrator/_plugin_images/{folder}", context_files(images_dir / folder)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise BuildError(f"The image of the orchestrator cannot be planned: the package {name} is not installed.")
    return Path(spec.origin).parent


def _installed_as() -> Mapping[str, str]:
    """What tells Python that the distribution is installed, and in which version."""
    version = metadata.version(_DISTRIBUTION)
    folder = f"site/{_DISTRIBUTION.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in metadata.requires(_DISTRIBUTION) or ())
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\nVersion: {version}\n{needs}"}
