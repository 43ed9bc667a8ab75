"""The memory engine's images and builds."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestrator.containers.memory.container import Program, until_terminated
from orchestrator.containers.spec import BUILD_TAIL, ImageStatus
from orchestrator.errors import BuildError, NotFoundError


@dataclass(frozen=True, slots=True)
class Build:
    """A build request."""

    tag: str
    dockerfile: str  # the Dockerfile's text
    labels: Mapping[str, str]
    build_args: Mapping[str, str]


class ImageStore:
    """Local images, those that can be pulled, and what builds do."""

    def __init__(self) -> None:
        self.registry: dict[str, Program] = {}
        """Reference → program of an image that can be pulled."""
        self.built_program: Program = until_terminated
        """Program of built images."""
        self.build_output: list[str] = ["Step 1/1"]
        """Output lines of every build."""
        self.build_error = ""
        """Error of every build; empty where builds succeed."""
        self.on_build: Callable[[Build], None] = lambda _: None
        """Called at the start of each build."""
        self.builds: list[Build] = []
        self._images: dict[str, tuple[ImageStatus, Program]] = {}

    def add(self, reference: str, program: Program, labels: Mapping[str, str]) -> ImageStatus:
        """Add an image of this name. The previous image of that name stays, without it."""
        self._take_name(reference)
        image = ImageStatus(f"sha256:{secrets.token_hex(32)}", (reference,), dict(labels), datetime.now(UTC))
        self._images[image.id] = (image, program)
        return image

    def tag(self, image: ImageStatus, name: str) -> None:
        self._take_name(name)
        image, program = self._images[image.id]
        self._images[image.id] = (replace(image, tags=(*image.tags, name)), program)

    def find(self, reference: str) -> ImageStatus:
        """The image with this id or tag; a name without a tag means `latest`. Raises `NotFoundError`."""
        names = {reference, f"{reference}:latest"}
        for image, _ in self._images.values():
            if image.id == reference or names & set(image.tags):
                return image
        raise NotFoundError(f"No such image: {reference}")

    def program(self, image: ImageStatus) -> Program:
        return self._images[image.id][1]

    def with_labels(self, labels: Mapping[str, str]) -> list[ImageStatus]:
        return [image for image, _ in self._images.values() if labels.items() <= dict(image.labels).items()]

    def untag(self, image: ImageStatus, name: str) -> bool:
        """Remove this name where it is one of several; whether it was."""
        others = tuple(tag for tag in image.tags if tag != name)
        if not others or len(others) == len(image.tags):
            return False
        self._images[image.id] = (replace(image, tags=others), self.program(image))
        return True

    def remove(self, image: ImageStatus) -> None:
        del self._images[image.id]

    def pull(self, reference: str) -> ImageStatus:
        """Add the image from `registry`. Raises `NotFoundError`."""
        if reference not in self.registry:
            raise NotFoundError(f"pull access denied for {reference}, repository does not exist")
        return self.add(reference, self.registry[reference], {})

    def _take_name(self, name: str) -> None:
        for digest, (image, program) in self._images.items():
            tags = tuple(tag for tag in image.tags if tag != name)
            self._images[digest] = (replace(image, tags=tags), program)

    async def build(self, build: Build, on_output: Callable[[str], None]) -> ImageStatus:
        """Print `build_output`, then raise `BuildError` with `build_error` or add an image."""
        self.builds.append(build)
        self.on_build(build)
        for line in self.build_output:
            on_output(line)
        if self.build_error:
            on_output(self.build_error)
            tail = "\n".join([*self.build_output, self.build_error][-BUILD_TAIL:])
            raise BuildError(f"the build of {build.tag} failed: {self.build_error}", tail)
        return self.add(build.tag, self.built_program, build.labels)
