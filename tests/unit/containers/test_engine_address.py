"""Which engine is spoken to: as the docker command decides it, by DOCKER_HOST, a context or nothing."""

import hashlib
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import certifi
import pytest

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.docker_engine.address import engine_address
from orchestrator.errors import EngineAddressError, EngineError

from .fake_dockerd import FakeDockerd

DEFAULT = "unix:///var/run/docker.sock"


def configured(folder: Path, *, current: str | None = None, **contexts: object) -> dict[str, str]:
    """The environment of a docker configuration with these contexts, each with its meta.json or an engine's address."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({} if current is None else {"currentContext": current}))
    for name, meta in contexts.items():
        place = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        place.mkdir(parents=True)
        of_address = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": meta, "SkipTLSVerify": False}}}
        content = of_address if isinstance(meta, str) and "://" in meta else meta
        (place / "meta.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {"DOCKER_CONFIG": str(folder)}


def test_the_current_context_names_the_engine(tmp_path):
    environment = configured(tmp_path, current="colima", colima="unix:///home/u/.colima/docker.sock")
    address = engine_address(environment)
    assert (address.url, str(address)) == (
        "unix:///home/u/.colima/docker.sock",
        "unix:///home/u/.colima/docker.sock (docker's context colima)",
    )


def test_docker_context_goes_before_the_current_one_and_docker_host_before_both(tmp_path):
    environment = configured(tmp_path, current="a", a="unix:///a", b="unix:///b") | {"DOCKER_CONTEXT": "b"}
    assert engine_address(environment).url == "unix:///b"
    assert engine_address({**environment, "DOCKER_HOST": "unix:///c"}).url == "unix:///c"
    assert engine_address({**environment, "DOCKER_CONTEXT": ""}).url == "unix:///a"


def test_the_configuration_is_looked_for_in_the_home(tmp_path):
    configured(tmp_path / ".docker", current="a", a="unix:///a")
    assert engine_address({"HOME": str(tmp_path)}).url == "unix:///a"


@pytest.mark.parametrize("current", [None, "", "default"])
def test_without_a_context_it_is_the_default_socket(tmp_path, current):
    assert engine_address(configured(tmp_path, current=current)).url == DEFAULT


def test_a_configuration_that_is_missing_or_no_json_names_none(tmp_path):
    """As for the docker command, which then uses the default."""
    assert engine_address({"DOCKER_CONFIG": str(tmp_path / "none")}).url == DEFAULT
    (tmp_path / "config.json").write_text("{")
    assert engine_address({"DOCKER_CONFIG": str(tmp_path)}).url == DEFAULT


@pytest.mark.parametrize(
    "meta", ["{", {}, {"Endpoints": []}, {"Endpoints": {"docker": {}}}, {"Endpoints": {"k8s": {}}}]
)
def test_a_context_without_an_engine_is_refused_with_its_name_and_what_to_do(tmp_path, meta):
    with pytest.raises(EngineAddressError, match=r"'odd' has no address.*docker context use") as refused:
        engine_address(configured(tmp_path, current="odd", odd=meta))
    assert str(tmp_path) not in str(refused.value)  # callers see it too


@pytest.mark.parametrize("by", ["currentContext", "DOCKER_CONTEXT"])
def test_a_context_that_does_not_exist_is_no_default(tmp_path, by):
    environment = configured(tmp_path, current="lost" if by == "currentContext" else None)
    with pytest.raises(EngineAddressError, match=rf"'lost' does not exist \(named by {by}.*DOCKER_HOST"):
        engine_address(environment | ({"DOCKER_CONTEXT": "lost"} if by == "DOCKER_CONTEXT" else {}))


@pytest.mark.parametrize("by", ["DOCKER_HOST", "context"])
def test_ssh_is_refused_alike(tmp_path, by):
    environment = configured(tmp_path, current="far", far="ssh://me@far") if by == "context" else {}
    with pytest.raises(EngineAddressError, match=r"over SSH .*not supported"):
        engine_address(environment or {"DOCKER_HOST": "ssh://me@far"})


@pytest.mark.parametrize("files", [("ca",), ("ca", "cert", "key"), ("cert", "key"), ("ca", "cert"), ()])
def test_a_contexts_certificates(tmp_path, files):
    environment = configured(tmp_path, current="far", far="tcp://far:2376")
    folder = tmp_path / "contexts" / "tls" / hashlib.sha256(b"far").hexdigest() / "docker"
    folder.mkdir(parents=True)
    for name in files:
        (folder / f"{name}.pem").write_text("x")
    tls = engine_address(environment).tls
    assert (tls is None) == (not files)
    if tls is not None:
        assert tls.verify
        assert tls.ca == (folder / "ca.pem" if "ca" in files else None)
        assert (tls.client is not None) == ({"cert", "key"} <= set(files))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A context's files: one certificate is its own authority, the engine's and the client's."""
    folder = tmp_path_factory.mktemp("certificates")
    subject = ["-subj", "/CN=engine", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*made, *subject], cwd=folder, check=True, capture_output=True)
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    return folder


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("files", [("ca", "cert", "key"), ()])
async def test_a_contexts_engine_is_spoken_to_by_its_certificates(tmp_path, certificates, files, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())  # for registries; not for the engine
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    tls.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.answers["GET", "/info"] = {"ServerVersion": "by TLS"}
    await dockerd.start(tls)
    environment = configured(tmp_path / "config", current="far", far=dockerd.address)
    folder = tmp_path / "config" / "contexts" / "tls" / hashlib.sha256(b"far").hexdigest() / "docker"
    folder.mkdir(parents=True)
    for name in files:
        shutil.copy(certificates / f"{name}.pem", folder)
    engine = DockerEngine(environment)
    try:
        if files:
            assert (await engine.info()).version == "by TLS"
        else:
            with pytest.raises(EngineError):
                await engine.info()
    finally:
        await engine.close()
        await dockerd.stop()


async def test_the_engine_of_the_context_is_spoken_to_whatever_becomes_current_meanwhile(tmp_path):
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.answers["GET", "/info"] = {"ServerVersion": "of the context"}
    await dockerd.start()
    environment = configured(tmp_path / "config", current="a", a=f"unix://{dockerd.path}", b="unix:///none")
    engine = DockerEngine(environment)
    try:
        assert (await engine.info()).version == "of the context"
        assert "docker's context a" in engine.address
        configured(tmp_path / "config", current="b")
        await dockerd.stop()
        with pytest.raises(Exception, match="reach"):
            await engine.info()
        await dockerd.start()
        assert (await engine.info()).version == "of the context"
    finally:
        await engine.close()
        await dockerd.stop()


async def test_a_context_that_does_not_exist_fails_the_calls_until_it_does(tmp_path):
    environment = configured(tmp_path / "config", current="late")
    engine = DockerEngine(environment)
    with pytest.raises(EngineAddressError):
        await engine.info()
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.answers["GET", "/info"] = {"ServerVersion": "late"}
    await dockerd.start()
    configured(tmp_path / "config", current="late", late=f"unix://{dockerd.path}")
    try:
        assert (await engine.info()).version == "late"
    finally:
        await engine.close()
        await dockerd.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_an_engine_of_docker_cert_path_has_its_own_authority(tmp_path, certificates, variable, monkeypatch):
    """Whatever authorities the environment names for registries and the like."""
    monkeypatch.setenv(variable, certifi.where())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    tls.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.answers["GET", "/info"] = {"ServerVersion": "by TLS"}
    await dockerd.start(tls)
    variables = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
    engine = DockerEngine({"DOCKER_HOST": dockerd.address, **variables})
    try:
        assert (await engine.info()).version == "by TLS"
    finally:
        await engine.close()
        await dockerd.stop()
