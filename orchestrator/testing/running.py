"""An orchestrator that something else has started."""

from typing import Any, Self

from testcontainers.core.docker_client import DockerClient

from orchestrator.client import Client
from orchestrator.testing.faults import Orchestrator


class RunningOrchestrator(Orchestrator):
    """Use it as a context. `container`: the id of its container on the engine of this environment, where it has one."""

    def __init__(self, address: str, api_key: str, container: str | None = None) -> None:
        self._address = address.rstrip("/")
        self._api_key = api_key
        self._container_id = container
        self._client = Client(self._address, api_key or None)
        self._docker: DockerClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._docker is not None:
            self._docker.client.close()

    @property
    def client(self) -> Client:
        """A client with the key that it was given."""
        return self._client

    @property
    def address(self) -> str:
        """The URL of its HTTP API."""
        return self._address

    @property
    def api_key(self) -> str:
        """The key that it was given; may be empty."""
        return self._api_key

    def _own_container(self) -> Any:
        if self._container_id is None:
            raise RuntimeError(f"The container of {self._address} is not known: only its API can be used.")
        if self._docker is None:
            self._docker = DockerClient()
        return self._docker.client.containers.get(self._container_id)
