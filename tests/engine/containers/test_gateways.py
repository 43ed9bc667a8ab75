"""Gateway and volume are created and removed with their container, even when a step fails."""

import subprocess

import pytest

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.endpoint import lay_out_token, token_file
from orchestrator.containers.spec import Gateway
from orchestrator.errors import EngineError

pytestmark = pytest.mark.engine


def beside(kit) -> set[str]:
    """Names of the gateways and volumes of the test's containers."""
    (label,) = (f"label=gateway.{name}={value}" for name, value in kit.labels.items())
    lists = (("ps", "--all", "--format", "{{.Names}}"), ("volume", "ls", "--format", "{{.Name}}"))
    outputs = [
        subprocess.run(["docker", *words, "--filter", label], check=True, capture_output=True, text=True).stdout
        for words in lists
    ]
    return set(" ".join(outputs).split())


def gateway(kit, image: str | None = None) -> Gateway:
    token = token_file(kit.folder)
    return Gateway(image or kit.image, token if token.exists() else lay_out_token(kit.folder), "/run/plugin")


async def test_a_gateway_is_not_listed_and_is_removed_with_its_container(docker_kit):
    kit = docker_kit
    spec = kit.spec(gateway=gateway(kit))
    container = await kit.engine.create(spec)
    assert [found.id for found in await kit.engine.list(kit.labels)] == [container]
    assert beside(kit) == {f"{spec.name}-gateway"}
    await kit.engine.remove(container)
    assert beside(kit) == set()


@pytest.mark.parametrize("broken", ["gateway", "container"])
async def test_a_failed_creation_leaves_nothing_behind(docker_kit, broken):
    kit = docker_kit
    missing = "plugin-orchestrator/test:no"
    spec = kit.spec(gateway=gateway(kit, missing if broken == "gateway" else None))
    if broken == "container":
        spec = kit.spec(gateway=gateway(kit), image=missing)
    with pytest.raises(EngineError):
        await kit.engine.create(spec)
    assert await kit.engine.list(kit.labels) == []
    assert beside(kit) == set()


async def test_another_orchestrator_adopts_a_gateway_and_removes_one_whose_container_is_removed(docker_kit):
    kit = docker_kit
    alive, lost = kit.spec(gateway=gateway(kit)), kit.spec(gateway=gateway(kit))
    container, removed = await kit.engine.create(alive), await kit.engine.create(lost)
    subprocess.run(["docker", "rm", "--force", removed], check=True, capture_output=True)
    another = DockerEngine.from_environment()
    try:
        await another.sweep(kit.labels)
        assert beside(kit) == {f"{alive.name}-gateway"}
        await another.remove(container)
        assert beside(kit) == set()
    finally:
        await another.close()


async def test_a_token_without_a_gateway_has_no_endpoint(docker_kit):
    kit = docker_kit
    lay_out_token(kit.folder)
    with pytest.raises(EngineError):
        await kit.engine.endpoint(await kit.engine.create(kit.spec()), kit.folder)
