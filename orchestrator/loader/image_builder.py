"""ImageBuilder: builds plugins' images where their content changed, pulls prebuilt ones, removes old ones."""

import asyncio
import hashlib
import shutil
import tempfile
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from orchestrator.containers.engine import ContainerEngine
from orchestrator.containers.spec import ImageStatus, Installation
from orchestrator.errors import BuildError, EngineError, EngineRefusedError, NotFoundError
from orchestrator.loader.build_report import BuildLog, conflict, error_line, hint, last_lines, modified_at
from orchestrator.loader.build_settings import Credentials, build_arguments, install_files
from orchestrator.loader.image_plan import (
    OWN_IMAGE_TAG,
    ImagePlan,
    derived_plan,
    needs_packages,
    own_image_plan,
    packages_plan,
    plugin_plan,
    runtime_packages,
    shared_plan,
    simulation_image_plan,
    source_fingerprint,
    write_texts,
)
from orchestrator.loader.image_recipe import (
    DOWNLOADS,
    INSTALL_FOLDER,
    INSTALLATION_LABEL,
    PLUGIN_LABEL,
    SHARED,
    SOURCE_LABEL,
    ImageRecipe,
)

Output = Callable[[str], None]

_MAX_CONCURRENT_BUILDS: Final = 2
_RETAINED: Final = 2  # images retained per plugin: the newest, and the previous one for a rollback
# Images retained per shared image; other orchestrators on this host, with other settings, share them.
_RETAINED_SHARED: Final = 4
_CONFLICT_LINES: Final = 500  # of the output's end, in which pip's account of a conflict is looked for


class ImageBuilder:
    """Provides images. Concurrent callers for one image share its build, and each gets its output.

    `on_output` gets each line of a build, and a line for each other step that takes its time; nothing for an image that
    is there already.
    """

    def __init__(
        self,
        engine: ContainerEngine,
        *,
        images_dir: Path,
        logs_dir: Path,
        ca_bundle: Path | None,
        build_settings: Mapping[str, str],
        python_image: str,
        in_use: Callable[[str], Collection[str]] = lambda _: (),
    ) -> None:
        """`images_dir` has base/, cuda/ and runtime/; `logs_dir` gets the output of every build as <name>.log.
        `in_use`: by the plugin's name, ids of images that are never removed, however old.

        `ca_bundle`: CA certificates that builds trust. `build_settings`: those of `BUILD_VARIABLES` that are set; no
        image, log or error has their credentials. `python_image`: the image under `base`.
        """
        self._engine = engine
        self._images_dir = images_dir
        self._logs_dir = logs_dir
        self._contexts = logs_dir / "contexts"
        self._ca_bundle = ca_bundle
        self._build_args = build_arguments(build_settings)
        self._install_files = install_files(build_settings)
        # By the folder, which is one orchestrator's alone.
        self._owner = {INSTALLATION_LABEL: hashlib.sha256(str(logs_dir.absolute()).encode()).hexdigest()[:12]}
        self._credentials = Credentials(build_settings)
        self._python_image = python_image
        self._in_use = in_use
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT_BUILDS)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._listeners: defaultdict[str, list[Output]] = defaultdict(list)
        """By lock, those who hold it or wait for it."""

    async def clear_leftovers(self) -> None:
        """Remove contexts and containers of builds that a killed orchestrator left behind. Call it before the first
        build.
        """
        await asyncio.to_thread(shutil.rmtree, self._contexts, ignore_errors=True)
        with suppress(EngineError):
            for container in await self._engine.list(self._owner):
                if not container.labels.get(PLUGIN_LABEL):  # never an instance, whatever labels its image has
                    await self._engine.remove(container.id)

    async def ensure_base(self, on_output: Output | None = None) -> ImageStatus:
        """The image that plugins are built on.

        Raises `BuildError`, or `NotFoundError` where the Python image under it cannot be pulled.
        """
        return await self._ensure_shared("base", on_output)

    async def ensure_plugin(self, recipe: ImageRecipe, on_output: Output | None = None) -> ImageStatus:
        """The plugin's image. Raises `BuildError`, or `NotFoundError` for a prebuilt one that cannot be pulled."""
        if recipe.prebuilt:
            async with self._alone(f"image {recipe.base}", on_output) as say:
                advice = (
                    "Check its name under `image` in plugin.yaml, log in to its registry (docker login), or load it"
                    " with docker load"
                )
                return await self._fetch(recipe.base, advice, say)
        base = await self._ensure_shared(recipe.base, on_output)
        async with self._alone(f"plugin {recipe.name}", on_output) as say:
            installed = False
            if await asyncio.to_thread(needs_packages, recipe):
                plan = partial(packages_plan, recipe, base)
                base, installed = await self._found_or_made(plan, say, self._slots, _RETAINED)
            plan = partial(plugin_plan, recipe, base)
            image, _ = await self._found_or_made(plan, say, self._slots, _RETAINED, appends=installed)
            return image

    def fingerprint(self, recipe: ImageRecipe) -> str:
        """Hash of the current sources of the plugin's image, without the Python image under it. Does not call the
        engine. Raises `BuildError`.
        """
        return source_fingerprint(recipe, self._images_dir, ca_bundle=self._ca_bundle, python_image=self._python_image)

    def build_output(self, plugin: str, *, lines: int, running: bool) -> str:
        """The last lines of the plugin's last build; empty without one. With `running`, one for it is under way: that
        may be the build of an image under its own.
        """
        path = self._logs_dir / f"{plugin}.log"
        if running:
            shared = (self._logs_dir / f"{kind}.log" for kind in SHARED)
            path = max((path, *shared), key=modified_at)
        return last_lines(path, lines)

    async def newest(self, plugin: str) -> ImageStatus:
        """The latest image of this plugin. Raises `NotFoundError` where none was built."""
        built = [image for image in await self._engine.images({PLUGIN_LABEL: plugin}) if image.tags]
        if not built:
            raise NotFoundError(f"no image of {plugin} has been built")
        return max(built, key=_created)

    async def is_current(self, recipe: ImageRecipe, image_id: str) -> bool:
        """Whether a prebuilt image's reference still means this image; True for an image that is built here."""
        return not recipe.prebuilt or (await self._engine.image(recipe.base)).id == image_id

    async def ensure_own(self, on_output: Output | None = None) -> ImageStatus:
        """The orchestrator's own image, made from what is installed here and tagged `OWN_IMAGE_TAG`.

        Raises `BuildError`, or `NotFoundError` where the Python image under it cannot be pulled.
        """
        async with self._alone("own", on_output) as say:
            python = await self._fetch_python(say)
            plan = partial(
                own_image_plan,
                self._images_dir,
                ca_bundle=self._ca_bundle,
                python_image=self._python_image,
                python_id=python.id,
            )
            image = await self._ensure(plan, say, nullcontext(), _RETAINED)
            await self._engine.tag_image(image.id, OWN_IMAGE_TAG)
            return image

    async def ensure_testing(self, on_output: Output | None = None) -> ImageStatus:
        """The image for tests of other projects, on the orchestrator's own. Raises as `ensure_own`."""
        own = await self.ensure_own(on_output)
        async with self._alone("testing", on_output) as say:
            return await self._ensure(partial(simulation_image_plan, own), say, nullcontext(), _RETAINED)

    async def _ensure_shared(self, kind: str, on_output: Output | None) -> ImageStatus:
        if kind != "base":
            base = await self._ensure_shared("base", on_output)
            async with self._alone(f"shared {kind}", on_output) as say:
                derived = partial(derived_plan, kind, self._images_dir, base)
                return await self._ensure(derived, say, nullcontext(), _RETAINED_SHARED)
        plan = partial(shared_plan, kind, self._images_dir, ca_bundle=self._ca_bundle, python_image=self._python_image)
        async with self._alone(f"shared {kind}", on_output) as say:
            try:
                python = await self._engine.image(self._python_image)
            except NotFoundError:
                # Pruned since the last build, or never local. An image that was built on it is still good.
                wanted = await asyncio.to_thread(plan, python_id="")
                found = await self._engine.images({SOURCE_LABEL: wanted.hashes[SOURCE_LABEL]})
                if built := [image for image in found if wanted.in_family(image)]:
                    return max(built, key=_created)
                python = await self._fetch_python(say)
            return await self._ensure(partial(plan, python_id=python.id), say, nullcontext(), _RETAINED_SHARED)

    @asynccontextmanager
    async def _alone(self, key: str, on_output: Output | None) -> AsyncIterator[Output]:
        """Hold a lock. Yields what passes a line on to the holder and to all who wait for the lock."""
        listeners = self._listeners[key]

        def say(line: str) -> None:
            for listener in tuple(listeners):
                listener(line)

        listener = on_output or _discard
        listeners.append(listener)
        try:
            async with self._locks[key]:
                yield say
        finally:
            listeners.remove(listener)

    async def _fetch_python(self, say: Output) -> ImageStatus:
        advice = (
            "Run `make up`, which builds one, or set ORCHESTRATOR_PYTHON_IMAGE to one that can be pulled, such"
            " as python:3.11-slim-bookworm"
        )
        return await self._fetch(self._python_image, advice, say)

    async def _fetch(self, reference: str, advice: str, say: Output) -> ImageStatus:
        with suppress(NotFoundError):
            return await self._engine.image(reference)
        say(f"pulling {reference}")
        try:
            return await self._engine.pull(reference)
        except (NotFoundError, EngineRefusedError) as error:
            raise NotFoundError(
                f"The image {reference} is not on this host and cannot be pulled: {error}. {advice}."
            ) from error

    async def _ensure(
        self,
        make_plan: Callable[[], ImagePlan],
        say: Output,
        slot: AbstractAsyncContextManager[None],
        retained: int,
    ) -> ImageStatus:
        image, _ = await self._found_or_made(make_plan, say, slot, retained)
        return image

    async def _found_or_made(
        self,
        make_plan: Callable[[], ImagePlan],
        say: Output,
        slot: AbstractAsyncContextManager[None],
        retained: int,
        *,
        appends: bool = False,
    ) -> tuple[ImageStatus, bool]:
        """The image, and whether it was made. `appends`: its log follows that of the image made before."""
        plan = await asyncio.to_thread(make_plan)
        with suppress(NotFoundError):
            return await self._engine.image(plan.tag), False
        if slot is self._slots and self._slots.locked():
            say("waiting until another build has ended")
        async with slot:
            # Files may have changed while this waited for its slot, and the tag must match the image's content.
            plan = await asyncio.to_thread(make_plan)
            say(f"collecting the files of {plan.name}")
            image = await self._build(plan, say, appends=appends)
        await self._prune(plan, image, retained)
        return image, True

    async def _build(self, plan: ImagePlan, say: Output, *, appends: bool) -> ImageStatus:
        self._contexts.mkdir(parents=True, exist_ok=True)
        with BuildLog(self._logs_dir, plan.name, appends=appends) as log:
            output: deque[str] = deque(maxlen=_CONFLICT_LINES)

            def write(line: str) -> None:
                line = self._credentials.mask(line)
                output.append(line)
                log.write(line)
                say(line)

            async with self._context(plan) as context:
                try:
                    return await self._make(plan, context, write)
                except BuildError as error:
                    tail = self._credentials.mask(error.tail)
                    raw = self._credentials.mask(str(error))
                    log.write(raw)
                    fixed = await asyncio.to_thread(runtime_packages, self._images_dir)
                    message = f"The image {plan.name} could not be built: {_cause(raw, tail, output, fixed)}"
                    raise BuildError(message.rstrip(), tail) from None  # its cause has what is masked here

    @asynccontextmanager
    async def _context(self, plan: ImagePlan) -> AsyncIterator[Path]:
        """A folder with the files of the build, removed afterwards. Raises `OSError`, `BuildError`."""
        folder = Path(tempfile.mkdtemp(dir=self._contexts))
        writing = asyncio.ensure_future(asyncio.to_thread(plan.write_context, folder))
        try:
            await asyncio.shield(writing)
            yield folder
        finally:
            # A build that is broken off does not wait for the thread, which goes on to write.
            writing.add_done_callback(lambda done: _remove(folder, done))

    async def _make(self, plan: ImagePlan, context: Path, on_output: Output) -> ImageStatus:
        if plan.installs is None:
            arguments = {"PYTHON_IMAGE": self._python_image, **plan.arguments, **self._build_args}
            return await self._engine.build(
                context, tag=plan.tag, labels=plan.labels, build_args=arguments, on_output=on_output
            )
        await asyncio.to_thread(write_texts, context / INSTALL_FOLDER.strip("/"), self._install_files)
        # A volume per plugin: what the setup of one plugin's packages does to it reaches no other plugin.
        installation = Installation(
            tag=plan.tag,
            base=plan.installs.base,
            files=context,
            script=plan.installs.script,
            labels=plan.labels,
            volume=f"plugin-orchestrator-downloads-{plan.name}",
            volume_path=DOWNLOADS,
            owner_labels=self._owner,
        )
        return await self._engine.install(installation, on_output)

    async def _prune(self, plan: ImagePlan, image: ImageStatus, retained: int) -> None:
        """Remove earlier versions of `image`, except those in use and the newest `retained` including itself."""
        with suppress(EngineError):
            family = [other for other in await self._engine.images(plan.family_labels) if plan.in_family(other)]
            others = sorted((other for other in family if other.id != image.id), key=_created, reverse=True)
            in_use = self._in_use(plan.name)
            for old in (other for other in others[retained - 1 :] if other.id not in in_use):
                with suppress(EngineRefusedError, NotFoundError):  # the engine refuses while a container uses it
                    for tag in plan.family_tags(old):
                        await self._engine.remove_image(tag)


def _remove(folder: Path, written: asyncio.Future[None]) -> None:
    if not written.cancelled():
        written.exception()  # is raised where it is awaited
    asyncio.get_running_loop().run_in_executor(None, partial(shutil.rmtree, folder, ignore_errors=True))


def _cause(error: str, tail: str, output: Iterable[str], fixed: Collection[str]) -> str:
    if (clash := conflict(output, fixed)) is not None:
        return clash
    return f"{(error_line(tail) or error).rstrip('.')}. {hint(f'{tail} {error}')}"


def _created(image: ImageStatus) -> datetime:
    return image.created or datetime.fromtimestamp(0, UTC)


def _discard(_: str) -> None:
    pass
