"""An orchestrator for a test session, on testcontainers: started with its plugins, removed without a trace."""

import asyncio
import contextlib
import io
import logging
import os
import secrets
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, Self

import httpx
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

from orchestrator.access.keys import PREFIX
from orchestrator.app import own_image
from orchestrator.client import Client
from orchestrator.containers.docker_engine.capabilities import engine_info, shares_sockets
from orchestrator.loader.build_settings import BUILD_VARIABLES
from orchestrator.own_image.entrypoint import USER
from orchestrator.settings import Settings

LABEL: Final = "plugin-orchestrator.testing"
"""On everything started here, with a value per orchestrator: it finds what a killed process left behind."""
_PORT: Final = 8000
_SOCKET: Final = "/var/run/docker.sock"
_POLL_SECONDS: Final = 0.1
_START_SECONDS: Final = 60.0  # limit until the orchestrator itself answers
_STOP_SECONDS: Final = 90  # limit for runs in flight while stopping
_REGISTRY_SECONDS: Final = 20  # limit for an answer of a registry
MOUNT_POINT: Final = "/given"
"""The archive's folder in the container, with plugins/0, plugins/1, … and operator-key."""
_MAX_IN_MEMORY: Final = 8 * 1024 * 1024
_EXCLUDED: Final = frozenset({"__pycache__", ".git", ".venv", "node_modules"})

_log = logging.getLogger(__name__)


class OrchestratorNotReadyError(RuntimeError):
    """The orchestrator or one of its plugins did not start in time. The message holds the end of the log."""


class OrchestratorContainer(DockerContainer):
    """An orchestrator with plugins. Its context starts once every plugin is ready or failed, and removes everything.

    Only an engine is needed: an outdated image is rebuilt from the installed version.
    """

    def __init__(
        self,
        plugins: str | Path | Sequence[str | Path],
        *,
        image: str | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        startup_timeout: float = 900.0,
        **kwargs: Any,
    ) -> None:
        """`plugins`: folders of plugin folders. `image`: the orchestrator's; by default built from what is installed.

        `settings`: ORCHESTRATOR_<NAME> by name, such as {"default_timeout": "5s"}. `startup_timeout`: seconds for
        building and starting all plugins. Other arguments go to testcontainers.
        """
        super().__init__(image or _own_image(), **kwargs)
        folders = [plugins] if isinstance(plugins, str | Path) else plugins
        self._plugins = [Path(folder) for folder in folders]
        self._settings = dict(settings)
        self._startup_timeout = startup_timeout
        self._token = secrets.token_hex(8)
        self._volume = f"plugin-orchestrator-test-{self._token}"
        self._client: Client | None = None
        self.api_key = PREFIX + secrets.token_urlsafe(32)
        """A key with the role operator. Other programs that reach the published port have none."""

    @property
    def client(self) -> Client:
        """A client of the orchestrator. Raises `RuntimeError` before its start and after its end."""
        if self._client is None:
            raise RuntimeError("the orchestrator is not running: use it as a context, or call start()")
        return self._client

    @property
    def address(self) -> str:
        """The URL of its HTTP API."""
        return f"http://{self.get_container_host_ip()}:{self.get_exposed_port(_PORT)}"

    def start(self) -> Self:
        """Raises `OrchestratorNotReadyError`, after removing everything."""
        _use_reaper_if_available(self.get_docker_client())
        try:
            super().start()
            self._wait_until_ready()
            self._client = Client(self.address, self.api_key)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, force: bool = True, delete_volume: bool = True) -> None:  # noqa: FBT001, FBT002 - as testcontainers has it
        """Wait for runs in flight, then remove the plugins' containers, the orchestrator's and the volume."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._container is not None:
            with contextlib.suppress(OSError):  # if the engine does not stop it, it is removed by force below
                self._container.stop(timeout=_STOP_SECONDS)
        engine = self.get_docker_client().client
        ours: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={self._token}"}
        for container in engine.containers.list(all=True, filters=ours, ignore_removed=True):
            if self._container is None or container.id != self._container.id:
                with contextlib.suppress(OSError):  # removed meanwhile
                    container.remove(force=True, v=True)
        if self._container is not None:
            with contextlib.suppress(OSError):
                self._container.remove(force=force, v=delete_volume)
            self._container = None
        for volume in engine.volumes.list(filters=ours):
            volume.remove(force=True)
        super().stop()

    def _configure(self) -> None:
        self._fill_volume()
        # Plugins' containers carry both too: `stop` finds them by one, Ryuk by the other.
        labels = {LABEL: self._token, LABEL_SESSION_ID: SESSION_ID}
        own = {
            "host": "0.0.0.0",
            "port": str(_PORT),
            "plugins_dirs": ":".join(f"{MOUNT_POINT}/plugins/{number}" for number in range(len(self._plugins))),
            "operator_key_file": f"{MOUNT_POINT}/operator-key",
            "container_labels": ",".join(f"{name}={value}" for name, value in labels.items()),
        }
        for name, value in {**own, **self._settings}.items():
            self.with_env(f"ORCHESTRATOR_{name.upper()}", value)
        self.with_envs(**{name: os.environ[name] for name in BUILD_VARIABLES if os.environ.get(name)})
        self.with_exposed_ports(_PORT)
        self.with_command("serve --stop-plugins")
        self.with_volume_mapping(self._volume, MOUNT_POINT, "ro")
        self.with_volume_mapping(engine_socket(self.get_docker_client().client.info()), _SOCKET, "rw")
        self.with_kwargs(
            **{
                "labels": {LABEL: self._token},
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
        engine.volumes.create(self._volume, labels={LABEL: self._token, LABEL_SESSION_ID: SESSION_ID})
        carrier = engine.containers.create(
            self.image,
            volumes={self._volume: {"bind": MOUNT_POINT, "mode": "rw"}},
            labels={LABEL: self._token, LABEL_SESSION_ID: SESSION_ID},
            network_mode="none",
        )
        try:
            with build_archive(self._plugins, self.api_key) as archive:
                carrier.put_archive(MOUNT_POINT, archive)
        finally:
            carrier.remove(force=True)

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        answer_text = "it does not answer"
        while True:
            waited = time.monotonic() - started
            try:
                answer = httpx.get(f"{self.address}/readyz", timeout=5, trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    return
                answer_text = answer.text
                limit = self._startup_timeout
            except (httpx.TransportError, TimeoutError, ConnectionError):  # its port is not published yet
                limit = min(_START_SECONDS, self._startup_timeout)
            self.get_wrapped_container().reload()
            if self.status == "exited" or waited > limit:
                log = b"".join(self.get_logs()).decode(errors="replace")[-4000:]
                raise OrchestratorNotReadyError(f"not ready after {waited:.0f} s: {answer_text}\n{log}")
            time.sleep(_POLL_SECONDS)


def engine_socket(info: Mapping[str, Any]) -> str:
    """The path of the engine's socket on the engine's machine. `info`: its answer to `GET /info`."""
    # In a virtual machine (Docker Desktop, Colima) the path by which it is reached from here means nothing.
    overridden = os.environ.get("TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE")
    if overridden or shares_sockets(engine_info(info), inside=False):
        return testcontainers_config.ryuk_docker_socket
    return _SOCKET


def _own_image() -> str:
    with ThreadPoolExecutor(1) as thread:  # the caller may be on an event loop
        image = thread.submit(lambda: asyncio.run(own_image(Settings()))).result()
    # `latest` moves with the next build.
    return next((tag for tag in image.tags if not tag.endswith(":latest")), image.id)


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


@contextlib.contextmanager
def build_archive(plugins: Sequence[Path], api_key: str) -> Iterator[IO[bytes]]:
    """The archive as an open file. Raises `NotADirectoryError` for a plugin folder that is not a folder."""
    with tempfile.SpooledTemporaryFile(_MAX_IN_MEMORY) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number, folder in enumerate(plugins):
                if not folder.is_dir():
                    raise NotADirectoryError(f"{folder} is not a folder of plugins")
                root = tarfile.TarInfo(f"plugins/{number}")
                root.type, root.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(root)
                for entry in sorted(folder.iterdir()):
                    # A plugin's folder may be a link, as the orchestrator allows it.
                    archive.add(entry.resolve(), f"{root.name}/{entry.name}", filter=_readable_for_all)
            key = tarfile.TarInfo("operator-key")
            key.size, key.mode, key.uid, key.gid = len(api_key), 0o400, USER, USER
            archive.addfile(key, io.BytesIO(api_key.encode()))
        file.seek(0)
        yield file


def _readable_for_all(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(entry.name).name in _EXCLUDED:
        return None
    entry.uid = entry.gid = USER
    entry.mode |= 0o555 if entry.isdir() else 0o444  # plugins read their models as another user
    return entry
