"""What every row uses: options, the load generator, the benchmark plugin's image, folders of plugins."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from simulated_nvidia.dockerd import OwnDockerd, own_dockerd

from benchmarks.figures import rotated
from benchmarks.load import Load, LoadGenerator, Request
from benchmarks.served import Served, served
from orchestrator.app import docker_engine, image_builder
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import read_manifest
from orchestrator.settings import Settings

_PLUGIN = Path(__file__).with_name("plugin")


@dataclass(frozen=True)
class Options:
    """`seconds`: length of each load; `rounds`: in each of them everything compared runs once."""

    rounds: int = 5
    seconds: float = 2.0
    plugins: int = 100
    idle_seconds: float = 60.0
    scale_minutes: float = 10.0
    seed: int = 1
    before: str = ""


@dataclass(frozen=True)
class Hundred:
    """Many plugins on one host, all of them up."""

    orchestrator: Served
    engine: OwnDockerd | None
    """An engine of their own, which may be frozen; None without root or dockerd."""
    seconds_to_start: float


@dataclass
class Bench:
    """`image`: the benchmark plugin's, by its tag."""

    options: Options
    load: LoadGenerator
    image: str
    shared: ExitStack = field(default_factory=ExitStack)
    """What several rows use; closed before a row of another group."""
    _hundred: Hundred | None = None

    @contextmanager
    def plugins(self, names: Sequence[str], **manifest: Any) -> Iterator[Path]:
        """A folder of plugins that differ only in their names."""
        with tempfile.TemporaryDirectory(prefix="bench-plugins-") as folder:
            for name in names:
                write_plugin(Path(folder), name, self.image, **manifest)
            yield Path(folder)

    @contextmanager
    def up(self, names: Sequence[str], **manifest: Any) -> Iterator[Served]:
        """An orchestrator with these plugins, all of them up."""
        with self.plugins(names, **manifest) as folder, served(folder) as orchestrator:
            orchestrator.until_up()
            yield orchestrator

    def in_turn(
        self, requests: Mapping[str, Request], *, connections: int = 1, number: int = 0
    ) -> dict[str, list[Load]]:
        """Run each request for `seconds` (or `number` times), in rounds, after a short warm-up of each."""
        for request in requests.values():
            self.load.run(request, connections=connections, seconds=min(0.5, self.options.seconds))
        loads: dict[str, list[Load]] = {name: [] for name in requests}
        for round_number in range(self.options.rounds):
            for name in rotated(list(requests), round_number):
                seconds = 3600 if number else self.options.seconds
                loads[name].append(
                    self.load.run(requests[name], connections=connections, seconds=seconds, requests=number)
                )
        return loads

    def hundred(self) -> Hundred:
        """Start them for the first row that needs them."""
        if self._hundred is None:
            self._hundred = self.shared.enter_context(self._start_hundred())
        return self._hundred

    def release_shared(self) -> None:
        """Stop what rows have shared."""
        self.shared.close()
        self._hundred = None

    @contextmanager
    def _start_hundred(self) -> Iterator[Hundred]:
        names = [f"p{number:03}" for number in range(self.options.plugins)]
        with ExitStack() as stack:
            engine = None
            if os.geteuid() == 0 and shutil.which("dockerd"):
                engine = stack.enter_context(own_dockerd())
                engine.load_image(self.image)
            folder = stack.enter_context(self.plugins(names, limits={"memory": "128MiB"}))
            started = time.monotonic()
            orchestrator = stack.enter_context(served(folder, engine.environment if engine else None))
            ended = orchestrator.until_up(within=600)
            yield Hundred(orchestrator, engine, ended - started)


def write_plugin(folder: Path, name: str, image: str, **manifest: Any) -> None:
    """Add the benchmark plugin under another name."""
    (folder / name).mkdir()
    content = {
        "version": "1.0.0",
        "description": "Called, and broken, by the benchmarks.",
        "entrypoint": "bench.plugin:Bench",
        "image": image,
        **manifest,
    }
    (folder / name / "plugin.yaml").write_text(yaml.safe_dump(content))


@contextmanager
def frozen(engine: OwnDockerd) -> Iterator[None]:
    """Stop the engine by SIGSTOP: it answers nothing and closes nothing."""
    pid = int((engine.folder / "pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def build_image() -> str:
    """Build the benchmark plugin's image if needed; return its tag."""

    async def build() -> str:
        settings = Settings()
        engine = docker_engine(settings)
        try:
            with contextlib.ExitStack() as stack:
                logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                builder = image_builder(settings.model_copy(update={"state_dir": logs}), engine)
                recipe = ImageRecipe.of(read_manifest(_PLUGIN), _PLUGIN)
                return (await builder.ensure_plugin(recipe)).tags[0]
        finally:
            await engine.close()

    return asyncio.run(build())
