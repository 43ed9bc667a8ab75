"""An orchestrator for a test session, by testcontainers: started with its plugins, gone without a trace."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import httpx
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

from orchestrator.access.keys import PREFIX
from orchestrator.app import own_image
from orchestrator.client import Client
from orchestrator.loader.image_builder import BUILD_VARIABLES
from orchestrator.settings import Settings
from orchestrator.testing import reaper
from orchestrator.testing.given_files import GIVEN, given_files

LABEL: Final = "plugin-orchestrator.testing"
"""On everything that was begun here, another value for each orchestrator: what a killed process left can be found."""
_PORT: Final = 8000
_PAUSE: Final = 0.1
_SERVING: Final = 60.0
"""Seconds until the orchestrator itself must answer."""
_LEAVING: Final = 90
"""Seconds that runs in flight are given in the end."""


class OrchestratorNotReadyError(RuntimeError):
    """The orchestrator, or a plugin of it, did not come up in time. The end of its log is in the message."""


class OrchestratorContainer(DockerContainer):
    """Begins with the context, when every plugin has come to its first verdict; ends with it, and nothing is left.

    The plugins' folders are copied, so they need not be where the engine can see them, and no test changes them.
    Nothing but the engine is needed: where the image is out of date it is built from what is installed here.
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
        """`plugins`: folders of plugin folders. `image`: the orchestrator's, where not made from what is installed.

        `settings`: ORCHESTRATOR_<NAME> by its name, such as {"default_timeout": "5s"}. `startup_timeout`: seconds until
        all plugins must have been built and started. Anything else goes to testcontainers.
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
        """Of the role operator; whoever else reaches the published port has none."""

    @property
    def client(self) -> Client:
        """Speaks to it. Raises `RuntimeError` before it has begun and after it has ended."""
        if self._client is None:
            raise RuntimeError("the orchestrator does not run: use it as a context, or call start()")
        return self._client

    @property
    def address(self) -> str:
        """The URL of its HTTP API."""
        return f"http://{self.get_container_host_ip()}:{self.get_exposed_port(_PORT)}"

    def start(self) -> Self:
        """Raises `OrchestratorNotReadyError`; then nothing is left either."""
        reaper.use_if_it_can_be_had(self.get_docker_client())
        try:
            super().start()
            self._wait_until_ready()
            self._client = Client(self.address, self.api_key)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, force: bool = True, delete_volume: bool = True) -> None:  # noqa: FBT001, FBT002 - as testcontainers has it
        """Runs in flight end first; then the plugins' containers go, and the orchestrator's."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._container is not None:
            with contextlib.suppress(OSError):  # what the engine does not stop is removed by force below
                self._container.stop(timeout=_LEAVING)
        engine = self.get_docker_client().client
        ours: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={self._token}"}
        for container in engine.containers.list(all=True, filters=ours, ignore_removed=True):
            if self._container is None or container.id != self._container.id:
                with contextlib.suppress(OSError):  # gone by itself meanwhile
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
        labels = {LABEL: self._token, LABEL_SESSION_ID: SESSION_ID}
        own = {
            "host": "0.0.0.0",
            "port": str(_PORT),
            "plugins_dirs": ":".join(f"{GIVEN}/plugins/{number}" for number in range(len(self._plugins))),
            "operator_key_file": f"{GIVEN}/operator-key",
            "container_labels": ",".join(f"{name}={value}" for name, value in labels.items()),
        }
        for name, value in {**own, **self._settings}.items():
            self.with_env(f"ORCHESTRATOR_{name.upper()}", value)
        self.with_envs(**{name: os.environ[name] for name in BUILD_VARIABLES if os.environ.get(name)})
        self.with_exposed_ports(_PORT)
        self.with_command("serve --stop-plugins")
        self.with_volume_mapping(self._volume, GIVEN, "ro")
        self.with_volume_mapping(testcontainers_config.ryuk_docker_socket, "/var/run/docker.sock", "rw")
        self.with_kwargs(
            **{
                "labels": {LABEL: self._token},
                "read_only": True,
                "cap_drop": ["ALL"],
                "cap_add": ["SETUID", "SETGID"],
                "security_opt": ["no-new-privileges"],
                "mounts": [
                    {"Type": "tmpfs", "Target": "/tmp"},  # noqa: S108 - in the container
                    {"Type": "volume", "Target": "/run/plugin-orchestrator"},
                    {"Type": "volume", "Target": "/var/lib/plugin-orchestrator"},
                ],
                **self._kwargs,
            }
        )

    def _fill_volume(self) -> None:
        """By way of a container that is never started: wherever the engine is, it can be reached by its API alone."""
        engine = self.get_docker_client().client
        engine.volumes.create(self._volume, labels={LABEL: self._token, LABEL_SESSION_ID: SESSION_ID})
        carrier = engine.containers.create(
            self.image,
            volumes={self._volume: {"bind": GIVEN, "mode": "rw"}},
            labels={LABEL: self._token, LABEL_SESSION_ID: SESSION_ID},
            network_mode="none",
        )
        try:
            with given_files(self._plugins, self.api_key) as archive:
                carrier.put_archive(GIVEN, archive)
        finally:
            carrier.remove(force=True)

    def _wait_until_ready(self) -> None:
        begun = time.monotonic()
        said = "it does not answer"
        while True:
            waited = time.monotonic() - begun
            try:
                answer = httpx.get(f"{self.address}/readyz", timeout=5, trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    return
                said = answer.text
                limit = self._startup_timeout
            except (httpx.TransportError, TimeoutError, ConnectionError):  # its port is not to be had
                limit = min(_SERVING, self._startup_timeout)
            self.get_wrapped_container().reload()
            if self.status == "exited" or waited > limit:
                log = b"".join(self.get_logs()).decode(errors="replace")[-4000:]
                raise OrchestratorNotReadyError(f"not ready after {waited:.0f} s: {said}\n{log}")
            time.sleep(_PAUSE)


def _own_image() -> str:
    """In a thread: the caller may be on an event loop."""
    with ThreadPoolExecutor(1) as thread:
        image = thread.submit(lambda: asyncio.run(own_image(Settings()))).result()
    return next((tag for tag in image.tags if not tag.endswith(":latest")), image.id)
