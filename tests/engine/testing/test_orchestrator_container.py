"""End to end as another project's CI would do it: the orchestrator's image, the engine's socket, real plugins."""

from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest
from support.checkout import PROJECT
from testcontainers.core.config import testcontainers_config

from orchestrator.client import AccessDenied, Client, PluginTimeout, PluginUnavailable
from orchestrator.loader.expectations import difference
from orchestrator.loader.samples import read_samples
from orchestrator.testing import OrchestratorContainer, OrchestratorNotReadyError
from orchestrator.testing.leftovers import LABEL

OCR = PROJECT / "plugins" / "ocr"
FIXTURES = PROJECT / "tests" / "fixtures" / "plugins"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to some plugins, in a folder that nobody else can read: they are copied."""
    folder = tmp_path_factory.mktemp("plugins")
    for source in (OCR, FIXTURES / "echo", FIXTURES / "hangs", FIXTURES / "model-missing"):
        (folder / source.name).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def orchestrator(own_image: str, plugins: Path) -> Iterator[OrchestratorContainer]:
    with OrchestratorContainer(plugins, image=own_image, settings={"log_level": "DEBUG"}) as orchestrator:
        yield orchestrator


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def test_a_real_plugin_does_its_real_work(orchestrator: OrchestratorContainer) -> None:
    """OCR of its sample page, over the published port."""
    (sample, *_) = read_samples(OCR)
    result = orchestrator.client.run("ocr", sample.call.tool, **sample.files())
    assert difference(sample.call.expect, status=200, result=result, error=None) is None


def test_a_tool_that_hangs_is_ended_and_explained(orchestrator: OrchestratorContainer) -> None:
    """In a container the orchestrator gives the same verdicts as outside."""
    with pytest.raises(PluginTimeout):
        orchestrator.client.run("hangs", "run")
    assert orchestrator.client.health("hangs")["reason_code"] == "TIMEOUT"
    assert orchestrator.client.run("echo", "echo", text="still here") == "still here"


def test_a_missing_model_is_reported_as_usual(orchestrator: OrchestratorContainer) -> None:
    with pytest.raises(PluginUnavailable):
        orchestrator.client.run("model-missing", "run")
    assert orchestrator.client.health("model-missing")["reason_code"] == "MODEL_MISSING"


def test_without_its_key_access_is_denied(orchestrator: OrchestratorContainer) -> None:
    """The port is published; the key is made for each container, and no inspection shows it."""
    with Client(orchestrator.address, "po_wrong") as stranger, pytest.raises(AccessDenied):
        stranger.plugins()
    attributes = orchestrator.get_wrapped_container().attrs
    assert orchestrator.api_key not in str(attributes)


def test_nothing_is_left_and_everything_carried_the_label(
    own_image: str, tmp_path: Path, engine: docker.DockerClient
) -> None:
    """Also where the test raises."""
    (tmp_path / "echo").symlink_to(FIXTURES / "echo")
    with pytest.raises(ZeroDivisionError), OrchestratorContainer(tmp_path, image=own_image) as orchestrator:  # noqa: PT012
        label = orchestrator.get_wrapped_container().labels[LABEL]
        ours = {"label": f"{LABEL}={label}"}
        assert len(engine.containers.list(filters=ours)) == 2, "the orchestrator and its plugin"
        assert len(engine.volumes.list(filters=ours)) == 1
        address = orchestrator.address
        _ = 1 / 0
    assert engine.containers.list(all=True, filters=ours, ignore_removed=True) == []
    assert engine.volumes.list(filters=ours) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)
    with pytest.raises(RuntimeError):
        _ = orchestrator.client


def test_one_that_does_not_start_says_why_and_leaves_nothing(
    own_image: str, tmp_path: Path, engine: docker.DockerClient
) -> None:
    """The end of its log is in the message."""
    before = {
        container.id for container in engine.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    }
    container = OrchestratorContainer(tmp_path, image=own_image, settings={"default_timeout": "60"})
    with pytest.raises(OrchestratorNotReadyError, match="ORCHESTRATOR_DEFAULT_TIMEOUT"):
        container.start()
    after = {
        container.id for container in engine.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    }
    assert after <= before


def test_without_the_reapers_image_it_works_without(
    own_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ryuk is used if its image is available, without any setting."""
    monkeypatch.setattr(testcontainers_config, "_ryuk_disabled", False)
    monkeypatch.setattr(testcontainers_config, "ryuk_image", "127.0.0.1:9/no-registry/ryuk:0")
    with OrchestratorContainer(tmp_path, image=own_image) as orchestrator:
        assert orchestrator.client.plugins() == []
    assert testcontainers_config.ryuk_disabled is True
