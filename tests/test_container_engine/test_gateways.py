"""What comes and goes with a container whose sockets are reached by TCP, whatever goes wrong on the way."""

import subprocess

import pytest

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.endpoint import lay_out_token, token_file
from orchestrator.containers.spec import Gateway
from orchestrator.errors import EngineError

pytestmark = pytest.mark.engine


def beside(kit) -> set[str]:
    """Names of containers and volumes that were made beside the test's own containers."""
    (label,) = (f"label=gateway.{name}={value}" for name, value in kit.labels.items())
    lists = (("ps", "--all", "--format", "{{.Names}}"), ("volume", "ls", "--format", "{{.Name}}"))
    told = [
        subprocess.run(["docker", *words, "--filter", label], check=True, capture_output=True, text=True).stdout
        for words in lists
    ]
    return set(" ".join(told).split())


def gateway(kit, image: str | None = None) -> Gateway:
    token = token_file(kit.folder)
    return Gateway(image or kit.image, token if token.exists() else lay_out_token(kit.folder), "/run/plugin")


async def test_a_gateway_is_no_container_of_the_orchestrators_and_goes_with_its_own(docker_kit):
    kit = docker_kit
    spec = kit.spec(gateway=gateway(kit))
    container = await kit.engine.create(spec)
    assert [found.id for found in await kit.engine.list(kit.labels)] == [container]
    assert beside(kit) == {f"{spec.name}-gateway"}
    await kit.engine.remove(container)
    assert beside(kit) == set()


@pytest.mark.parametrize("broken", ["gateway", "container"])
async def test_what_cannot_be_made_whole_is_not_left_in_part(docker_kit, broken):
    kit = docker_kit
    missing = "plugin-orchestrator/test:no"
    spec = kit.spec(gateway=gateway(kit, missing if broken == "gateway" else None))
    if broken == "container":
        spec = kit.spec(gateway=gateway(kit), image=missing)
    with pytest.raises(EngineError):
        await kit.engine.create(spec)
    assert await kit.engine.list(kit.labels) == []
    assert beside(kit) == set()


async def test_another_orchestrator_finds_a_gateway_and_clears_away_one_whose_container_is_gone(docker_kit):
    kit = docker_kit
    kept, lost = kit.spec(gateway=gateway(kit)), kit.spec(gateway=gateway(kit))
    container, gone = await kit.engine.create(kept), await kit.engine.create(lost)
    subprocess.run(["docker", "rm", "--force", gone], check=True, capture_output=True)
    another = DockerEngine.from_environment()
    try:
        await another.sweep(kit.labels)
        assert beside(kit) == {f"{kept.name}-gateway"}
        await another.remove(container)
        assert beside(kit) == set()
    finally:
        await another.close()


async def test_a_token_without_a_gateway_leads_nowhere(docker_kit):
    kit = docker_kit
    lay_out_token(kit.folder)
    with pytest.raises(EngineError):
        await kit.engine.endpoint(await kit.engine.create(kit.spec()), kit.folder)
