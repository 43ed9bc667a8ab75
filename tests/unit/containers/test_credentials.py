"""Docker's credentials for a pull: what is wrong with them is no unreachable engine, and public images need none."""

import base64
import json
import os
import time
import warnings
from pathlib import Path

import pytest
from docker.auth import INDEX_URL

from orchestrator.containers.docker_engine import Bounds, DockerEngine, client
from orchestrator.errors import EngineRefusedError, EngineUnreachableError, NotFoundError
from orchestrator.lifecycle import ReasonCode
from orchestrator.loader.image_builder import ImageBuilder
from orchestrator.supervisor.start_verdict import verdict_of_engine

from .fake_dockerd import FakeDockerd, streamed

PUBLIC = b'{"status":"Status: Downloaded newer image"}\n'
DENIED = (
    b'{"error":"pull access denied for private/x, repository does not exist or may require docker login: denied"}\n'
)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def docker_config(tmp_path, monkeypatch):
    """Writes docker's config.json, and helpers on PATH."""
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(content, **helpers):
        (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        for name, script in helpers.items():
            helper = folder / f"docker-credential-{name}"
            helper.write_text(f"#!/bin/sh\n{script}\n")
            helper.chmod(0o755)

    return write


@pytest.fixture
async def dockerd(tmp_path):
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.sent = []  # what each pull had as its X-Registry-Auth
    await dockerd.start()
    yield dockerd
    await dockerd.stop()


@pytest.fixture
async def engine(dockerd):
    engine = DockerEngine(dockerd.environment, bounds=Bounds(pull=30))
    yield engine
    await engine.close()


def pulls(dockerd, *lines):
    async def answer(request):
        sent = request.headers.get("X-Registry-Auth", "")
        dockerd.sent.append(json.loads(base64.urlsafe_b64decode(sent)) if sent else None)
        return await streamed(*lines)(request)

    dockerd.answers["POST", "/images/create"] = answer
    dockerd.answers["GET", "/images/library/x:1/json"] = {"Id": "sha256:1"}
    dockerd.answers["GET", "/images/private/x:1/json"] = (404, "No such image: private/x:1")


BROKEN_HELPERS = [
    ({"credsStore": "absent"}, {}, "docker-credential-absent is not installed, or not on PATH"),
    ({"credHelpers": {INDEX_URL: "absent"}}, {}, "docker-credential-absent is not installed"),
    (
        {"credsStore": "bad"},
        {"bad": "echo 'keychain is locked'; exit 3"},
        "docker-credential-bad failed .* 3: keychain",
    ),
    ({"credsStore": "odd"}, {"odd": "echo nonsense"}, "could not be read"),
    ({"credsStore": "odd"}, {"odd": "echo '{}'"}, "could not be read"),
    ({"credsStore": "slow"}, {"slow": "sleep 600"}, "docker-credential-slow gave no answer within 0.5 s"),
]


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    monkeypatch.setattr(client, "_CREDENTIALS_SECONDS", 0.5)


@pytest.mark.parametrize(("config", "helpers", "said"), BROKEN_HELPERS)
async def test_a_public_image_is_pulled_without_the_helper(dockerd, engine, docker_config, config, helpers, said):
    docker_config(config, **helpers)
    pulls(dockerd, PUBLIC)
    assert (await engine.pull("library/x:1")).id == "sha256:1"
    assert dockerd.sent == [{}]


@pytest.mark.parametrize(("config", "helpers", "said"), BROKEN_HELPERS)
async def test_a_private_image_is_missing_and_the_helper_is_named(
    dockerd, engine, docker_config, tmp_path, config, helpers, said
):
    docker_config(config, **helpers)
    pulls(dockerd, DENIED)
    builder = ImageBuilder(
        engine, images_dir=tmp_path, logs_dir=tmp_path, ca_bundle=None, build_settings={}, python_image="p:1"
    )
    with pytest.raises(NotFoundError, match=said) as missing:
        await builder._fetch("private/x:1", "Log in", lambda _: None)
    assert "denied" in str(missing.value)
    assert verdict_of_engine(missing.value, "its image was made ready").code is ReasonCode.IMAGE_MISSING


async def test_the_pooled_clients_stay(dockerd, engine, docker_config):
    docker_config({"credsStore": "absent"})
    pulls(dockerd, DENIED)
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await engine.pull("private/x:1")
    assert dockerd.requested.count("/version") <= 4  # one for each thread of the pool, no more


async def test_a_helper_that_hangs_leaves_nothing_behind(dockerd, engine, docker_config, tmp_path):
    docker_config({"credsStore": "slow"}, slow=f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    pulls(dockerd, PUBLIC)
    started = time.monotonic()
    await engine.pull("library/x:1")
    assert time.monotonic() - started < 10
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("config", "helpers", "sent"),
    [
        ({}, {}, {}),
        ({"auths": {INDEX_URL: {"auth": base64.b64encode(b"u:p").decode()}}}, {}, "u"),
        ({"credsStore": "good"}, {"good": 'echo \'{"Username":"u","Secret":"p"}\''}, "u"),
        ({"credsStore": "none"}, {"none": "echo 'credentials not found in native keychain'; exit 1"}, {}),
    ],
)
async def test_credentials_that_can_be_read_are_sent(dockerd, engine, docker_config, config, helpers, sent):
    docker_config(config, **helpers)
    pulls(dockerd, PUBLIC)
    await engine.pull("library/x:1")
    (found,) = dockerd.sent
    assert found == sent or (found.get("Username") or found.get("username")) == sent


async def test_a_login_counts_at_once(dockerd, engine, docker_config):
    docker_config({})
    pulls(dockerd, DENIED)
    with pytest.raises(NotFoundError):
        await engine.pull("private/x:1")
    docker_config({"auths": {INDEX_URL: {"auth": base64.b64encode(b"u:p").decode()}}})
    with pytest.raises(NotFoundError):
        await engine.pull("private/x:1")
    assert [found.get("username") for found in dockerd.sent] == [None, "u"]


@pytest.mark.parametrize(
    "auths", [{"r.example": "text"}, {"r.example": {"auth": "not base64!"}}, {"r.example": {"auth": "YQ=="}}]
)
async def test_entries_that_the_sdk_cannot_read_are_named_and_no_unreachable_engine(engine, docker_config, auths):
    docker_config({"auths": auths})
    with pytest.raises(EngineRefusedError, match=r"config\.json .*DOCKER_CONFIG") as refused:
        await engine.info()
    assert verdict_of_engine(refused.value, "x").code is not ReasonCode.ENGINE_UNREACHABLE


async def test_a_name_that_is_no_images_is_no_unreachable_engine(engine, docker_config):
    docker_config({})
    with pytest.raises(EngineRefusedError) as refused:
        await engine.pull("https://example.org/x")
    assert not isinstance(refused.value, EngineUnreachableError)
