"""A store in a folder, a puller that does not sleep, and a file to fetch."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.file_server import FileServer

from orchestrator.models.plan import Reference, WantedFile
from orchestrator.models.pull import Progress, Puller
from orchestrator.models.store import ModelStore
from orchestrator.models.transfer import http_client

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def wanted(*urls: str, sha256: str = SHA256) -> WantedFile:
    return WantedFile(sha256, urls, (Reference("reader", "weights", "m/weights.onnx", sha256, urls),))


class Told:
    """What a pull reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Progress] = []

    def progress(self, label: str, progress: Progress) -> None:
        assert label == "reader: weights.onnx"
        self.steps.append(progress)

    def note(self, label: str, sentence: str) -> None:
        assert label == "reader: weights.onnx"
        self.notes.append(sentence)


class Pulls:
    """Pulls into `store`; `slept` are the delays that it would have waited."""

    def __init__(self, store: ModelStore, client: httpx.Client) -> None:
        self.store, self.told, self.slept = store, Told(), list[float]()
        self._puller = Puller(store, client, self.told, sleep=self.slept.append, random=lambda: 0.0)

    def __call__(self, *urls: str, sha256: str = SHA256) -> str:
        return self._puller.pull(wanted(*urls, sha256=sha256))

    @property
    def right(self) -> bool:
        """The store holds the file, whole, and nothing beside it."""
        path = self.store.find(SHA256)
        left = [entry.name for entry in (self.store.root / "partial").iterdir()]
        return path is not None and path.read_bytes() == CONTENT and left == []

    @property
    def empty(self) -> bool:
        return self.store.files() == [] and self.store.partials() == []


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    """One for all: each reads the certificates anew."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        made = http_client(None)
    with made:
        yield made


@pytest.fixture
def pull(store: ModelStore, client: httpx.Client) -> Pulls:
    return Pulls(store, client)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(CONTENT) as server:
        yield server
