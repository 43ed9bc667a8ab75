"""An orchestrator for a test session, on testcontainers: started with its plugins, removed without a trace."""

import asyncio
import logging
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

from orchestrator.access.keys import PREFIX
from orchestrator.app import own_image, testing_image
from orchestrator.client import Client
from orchestrator.containers.docker_engine.capabilities import engine_info, shares_sockets
from orchestrator.loader.build_settings import BUILD_VARIABLES
from orchestrator.loader.image_plan import TESTING_IMAGE
from orchestrator.loader.image_recipe import SHARED_LABEL
from orchestrator.settings import Settings
from orchestrator.simulation.gpus import Gpu, gpus_of
from orchestrator.simulation.simulation import SimulationPlan
from orchestrator.testing.archive import PLAN, build_archive
from orchestrator.testing.faults import Orchestrator, fault_of
from orchestrator.testing.leftovers import LABEL, OWNER, owner_of, remove_leftovers, remove_session
from orchestrator.testing.readiness import PORT, PluginsReady
from orchestrator.testing.stand_in import StandIn

_SOCKET: Final = "/var/run/docker.sock"
_REGISTRY_SECONDS: Final = 20  # limit for an answer of a registry
MOUNT_POINT: Final = "/given"
"""The archive's folder in the container, with plugins/0, plugins/1, … and operator-key."""

_log = logging.getLogger(__name__)


class OrchestratorContainer(DockerContainer, Orchestrator):
    """An orchestrator with plugins. Its context starts once every plugin is ready or failed, and removes everything.

    Only an engine is needed: an outdated image is rebuilt from the installed version.
    """

    def __init__(
        self,
        plugins: str | Path | StandIn | Sequence[str | Path | StandIn] = (),
        *,
        gpus: str | Iterable[Gpu] | None = None,
        faults: Mapping[str, str] = MappingProxyType({}),
        image: str | None = None,
        simulation: bool | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        startup_timeout: float = 900.0,
        owner: int | None = None,
        **kwargs: Any,
    ) -> None:
        """`plugins`: folders of plugin folders, and stand-ins. `gpus`: simulated ones, such as "2x24GiB". `faults`:
        plugin → reason code, from the start on. `image`: the orchestrator's; by default built from what is installed.
        `simulation`: whether that is the testing image; by default as its labels say, and True where none is named.

        `settings`: ORCHESTRATOR_<NAME> by name, such as {"default_timeout": "5s"}. `startup_timeout`: seconds for
        building and starting all plugins. `owner`: the process after whose end everything may be removed, this one by
        default. Other arguments go to testcontainers. Raises `ValueError` for what is no GPU, `FaultRefusedError`.
        """
        folders = [plugins] if isinstance(plugins, str | Path | StandIn) else plugins
        self._plugins = [folder if isinstance(folder, StandIn) else Path(folder) for folder in folders]
        stand_ins = frozenset(folder.name for folder in self._plugins if isinstance(folder, StandIn))
        self._plan = SimulationPlan(
            None if gpus is None else gpus_of(gpus),
            tuple(fault_of(plugin, code) for plugin, code in faults.items()),
            stand_ins,
        )
        super().__init__(image or _built_image(simulated=simulation is not False), **kwargs)
        if simulation is None:
            simulation = image is None or _makes_faults(self.get_docker_client(), image)
        self._simulated = simulation
        if not self._simulated and (stand_ins or faults or gpus is not None):
            raise ValueError("gpus, faults and stand-ins need the testing image: leave out `image` and `simulation`")
        self._owner = owner_of(os.getpid() if owner is None else owner)
        self._settings = dict(settings)
        if self._wait_strategy is None:
            self.waiting_for(PluginsReady().with_startup_timeout(timedelta(seconds=startup_timeout)))
        self.token = secrets.token_hex(8)
        """The value of its label on everything that it has made."""
        self._volume = f"plugin-orchestrator-test-{self.token}"
        self._client: Client | None = None
        self._api_key = PREFIX + secrets.token_urlsafe(32)

    @property
    def client(self) -> Client:
        """A client of the orchestrator. Raises `RuntimeError` before its start and after its end."""
        if self._client is None:
            raise RuntimeError("the orchestrator is not running: use it as a context, or call start()")
        return self._client

    @property
    def address(self) -> str:
        """The URL of its HTTP API."""
        return f"http://{self.get_container_host_ip()}:{self.get_exposed_port(PORT)}"

    @property
    def api_key(self) -> str:
        """A key with the role operator. Other programs that reach the published port have none."""
        return self._api_key

    def _own_container(self) -> Any:
        return self.get_wrapped_container()

    def start(self) -> Self:
        """Raises `OrchestratorNotReadyError`, after removing everything."""
        for name in remove_leftovers(self.get_docker_client()):
            _log.info("removed %s, which a killed test process had left", name)
        _use_reaper_if_available(self.get_docker_client())
        try:
            super().start()
            self._client = Client(self.address, self.api_key)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, force: bool = True, delete_volume: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - as testcontainers has it
        """Wait for runs in flight, then remove the plugins' containers, the orchestrator's and the volume."""
        if self._client is not None:
            self._client.close()
            self._client = None
        remove_session(self.get_docker_client(), self.token)
        self._container = None
        super().stop()

    def _configure(self) -> None:
        self._fill_volume()
        # Plugins' containers carry both too: `stop` finds them by one, Ryuk by the other.
        labels = self._labels()
        own = {
            "host": "0.0.0.0",
            "port": str(PORT),
            "plugins_dirs": ":".join(f"{MOUNT_POINT}/plugins/{number}" for number in range(len(self._plugins))),
            "operator_key_file": f"{MOUNT_POINT}/operator-key",
            "container_labels": ",".join(f"{name}={value}" for name, value in labels.items()),
        }
        for name, value in {**own, **self._settings}.items():
            self.with_env(f"ORCHESTRATOR_{name.upper()}", value)
        self.with_envs(**{name: os.environ[name] for name in BUILD_VARIABLES if os.environ.get(name)})
        self.with_exposed_ports(PORT)
        self.with_command(f"--plan {MOUNT_POINT}/{PLAN}" if self._simulated else "serve --stop-plugins")
        # A fault may be in a plugin's folder.
        self.with_volume_mapping(self._volume, MOUNT_POINT, "rw" if self._simulated else "ro")
        self.with_volume_mapping(engine_socket(self.get_docker_client().client.info()), _SOCKET, "rw")
        self.with_kwargs(
            **{
                "labels": {LABEL: self.token, OWNER: self._owner},
                "read_only": True,
                "cap_drop": ["ALL"],
                "cap_add": ["SETUID", "SETGID"],
                # As in compose.yaml: with SELinux's label it may not connect to the engine's socket.
                "security_opt": ["no-new-privileges", "label:disable"],
                "mounts": [
                    {"Type": "tmpfs", "Target": "/tmp"},  # noqa: S108 - in the container
                    {"Type": "volume", "Target": "/run/plugin-orchestrator"},
                    {"Type": "volume", "Target": "/var/lib/plugin-orchestrator"},
                ],
                **self._kwargs,
            }
        )

    def _fill_volume(self) -> None:
        # A copy of the plugin folders: the engine need not see them, and no test changes them. Through a container that
        # is never started: this needs the engine's API only, wherever the engine is.
        engine = self.get_docker_client().client
        engine.volumes.create(self._volume, labels=self._labels())
        carrier = engine.containers.create(
            self.image,
            volumes={self._volume: {"bind": MOUNT_POINT, "mode": "rw"}},
            labels=self._labels(),
            network_mode="none",
        )
        try:
            with build_archive(self._plugins, self.api_key, self._plan if self._simulated else None) as archive:
                carrier.put_archive(MOUNT_POINT, archive)
        finally:
            carrier.remove(force=True)

    def _labels(self) -> dict[str, str]:
        return {LABEL: self.token, OWNER: self._owner, LABEL_SESSION_ID: SESSION_ID}


def engine_socket(info: Mapping[str, Any]) -> str:
    """The path of the engine's socket on the engine's machine. `info`: its answer to `GET /info`."""
    # In a virtual machine (Docker Desktop, Colima) the path by which it is reached from here means nothing.
    overridden = os.environ.get("TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE")
    if overridden or shares_sockets(engine_info(info), inside=False):
        return testcontainers_config.ryuk_docker_socket
    return _SOCKET


def _built_image(*, simulated: bool) -> str:
    build = testing_image if simulated else own_image
    with ThreadPoolExecutor(1) as thread:  # the caller may be on an event loop
        image = thread.submit(lambda: asyncio.run(build(Settings()))).result()
    # `latest` moves with the next build.
    return next((tag for tag in image.tags if not tag.endswith(":latest")), image.id)


def _makes_faults(engine: DockerClient, image: str) -> bool:
    """Whether it is the testing image; False for one that cannot be had, which the start will say."""
    try:
        found = engine.client.images.get(image)
    except OSError:  # docker's errors are subclasses
        try:
            found = engine.client.images.pull(image)
        except OSError:
            return False
    return bool(found.labels.get(SHARED_LABEL) == TESTING_IMAGE)


def _use_reaper_if_available(engine: DockerClient) -> None:
    """Switch off testcontainers' reaper (Ryuk) for this process if its image is neither here nor in a registry.

    It cleans up after a process that was killed by SIGKILL; after any other end the process cleans up itself.
    """
    if testcontainers_config.ryuk_disabled or Reaper._instance is not None:  # noqa: SLF001 - there is no public way
        return
    image = testcontainers_config.hub_image_name_prefix + testcontainers_config.ryuk_image
    if engine.client.images.list(name=image):
        return
    puller = DockerClient(timeout=_REGISTRY_SECONDS)
    try:
        puller.client.images.pull(image)
    except OSError as error:  # docker's and requests' errors are subclasses
        testcontainers_config.ryuk_disabled = True
        _log.warning("Ryuk is off: its image %s is not here and cannot be pulled (%s)", image, error)
    finally:
        puller.client.close()
