"""A proxy of the engine's socket that does not allow everything: which request, and all that it must allow."""

import pytest
from aiohttp import web

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.docker_engine.permissions import NEEDED, TRIALS, needed_for, proxys_refusal
from orchestrator.containers.spec import ContainerSpec
from orchestrator.errors import EngineRefusedError, EngineUnreachableError, NotFoundError

from .fake_dockerd import FakeDockerd

SPEC = ContainerSpec(name="x", image="y", labels={}, environment={}, memory=1, pids=1)
HTML = "<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>"


def refusing(status=403, text=HTML, content_type="text/html"):
    async def answer(_):
        return web.Response(status=status, text=text, content_type=content_type)

    return answer


@pytest.fixture
async def engine(dockerd):
    engine = DockerEngine(dockerd.environment)
    yield engine
    await engine.close()


@pytest.mark.parametrize(
    ("status", "text", "content_type"),
    [(403, HTML, "text/html"), (403, "Forbidden", "text/plain"), (405, "Method Not Allowed", "text/plain")],
)
async def test_a_refusal_of_a_proxy_names_the_request_and_what_to_allow(dockerd, engine, status, text, content_type):
    dockerd.answers["POST", "/containers/create"] = refusing(status, text, content_type)
    with pytest.raises(EngineRefusedError) as refused:
        await engine.create(SPEC)
    said = str(refused.value)
    assert f"POST /containers/create was refused with {status}" in said
    assert "Allow CONTAINERS and POST" in said
    assert "<" not in said
    assert all(permission in said for permission in NEEDED)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_without_its_engine_is_an_engine_that_does_not_answer(dockerd, engine, status):
    dockerd.answers["GET", "/info"] = refusing(status, "<html><body><h1>Service Unavailable</h1></body></html>")
    with pytest.raises(EngineUnreachableError) as unreachable:
        await engine.info()
    assert f"a proxy of the engine's socket answers {status}" in str(unreachable.value)
    assert "<" not in str(unreachable.value)


async def test_the_engines_own_503_is_its_own_word(dockerd, engine):
    dockerd.answers["GET", "/info"] = (503, "This node is not a swarm manager.")
    with pytest.raises(EngineRefusedError, match=r"^This node is not a swarm manager\.$"):
        await engine.info()


async def test_the_engines_own_403_is_its_own_word(dockerd, engine):
    dockerd.answers["POST", "/containers/create"] = (403, "authorization denied by plugin opa: no")
    with pytest.raises(EngineRefusedError, match=r"^authorization denied by plugin opa: no$"):
        await engine.create(SPEC)


async def test_a_404_page_of_a_proxy_is_still_a_404(dockerd, engine):
    dockerd.answers["GET", "/containers/x/json"] = refusing(404, "page not found", "text/plain")
    with pytest.raises(NotFoundError):
        await engine.inspect("x")


async def test_a_refused_version_is_a_refusal_and_no_silence(tmp_path):
    """The first call of each client, which the SDK wraps in a plain exception."""

    class Refusing(FakeDockerd):
        async def _answer(self, request):
            return await refusing()(request)

    dockerd = Refusing(tmp_path / "refusing.sock")
    await dockerd.start()
    engine = DockerEngine(dockerd.environment)
    try:
        with pytest.raises(EngineRefusedError, match="GET /version was refused with 403"):
            await engine.info()
    finally:
        await engine.close()
        await dockerd.stop()


async def test_all_that_is_refused_is_found_at_once(dockerd, engine):
    nobody = next(trial.path.split("/")[2] for trial in TRIALS if trial.permission == "CONTAINERS")
    dockerd.answers["GET", "/info"] = refusing()
    dockerd.answers["POST", "/build"] = refusing(405, "", "text/plain")
    dockerd.answers["DELETE", f"/containers/{nobody}"] = refusing()
    assert await engine.refused_permissions() == ("INFO", "POST", "BUILD")


async def test_nothing_is_refused_by_an_engine(dockerd, engine):
    assert await engine.refused_permissions() == ()


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1.41/info", ("INFO",)),
        ("GET", "/_ping", ("PING",)),
        ("HEAD", "/v1.41/_ping", ("PING",)),
        ("POST", "/v1.41/images/create", ("IMAGES", "POST")),
        ("DELETE", "/v1.41/volumes/x", ("VOLUMES", "POST")),
        ("GET", "/v1.41/system/df", ("SYSTEM",)),
        ("GET", "/v1.41/events", ("EVENTS",)),
        ("POST", "/v1.41/build", ("BUILD", "POST")),
        ("POST", "/v1.41/commit", ("COMMIT", "POST")),
    ],
)
def test_a_requests_permissions(method, path, needed):
    assert needed_for(method, path) == needed


def test_other_errors_are_no_refusals_of_a_proxy():
    assert proxys_refusal(500, "GET", "/info", "text/html") is None
    assert proxys_refusal(403, "GET", "/info", "application/json") is None
