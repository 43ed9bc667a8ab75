"""`doctor`: each finding is ok or says what to do; no secret is shown."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner
from unit.containers.fake_dockerd import FakeDockerd

from orchestrator.audit.findings import Level
from orchestrator.cli import commands, doctor, doctor_findings
from orchestrator.containers.spec import EngineInfo
from orchestrator.loader.dependency_checker import DependencyChecker
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_secrets import SecretSource
from orchestrator.settings import Settings

GOOD = EngineInfo("26.1.5", "Debian", "overlay2", "2", (), rootless=False, selinux=False)
PODMAN = replace(GOOD, product="Podman", version="4.3.1")


def levels(findings):
    return {finding.check: finding.level for finding in findings}


@pytest.mark.parametrize(
    ("info", "check", "level", "said"),
    [
        (GOOD, "memory limit", Level.OK, "memory and swap"),
        (replace(GOOD, limits=frozenset({"memory", "pids"})), "memory limit", Level.WARNING, "swapaccount=1"),
        (replace(GOOD, limits=frozenset({"pids"})), "memory limit", Level.ERROR, "cgroup_enable=memory"),
        (replace(GOOD, limits=frozenset({"memory", "swap"})), "process limit", Level.ERROR, "LIMITS_UNSUPPORTED"),
        (replace(GOOD, version="19.03.1"), "version", Level.WARNING, "Install a newer one"),
        (replace(GOOD, version="20.10.24+dfsg1", rootless=True), "cgroups", Level.OK, "rootless"),
        (replace(GOOD, version="4.9.3"), "version", Level.WARNING, "before 20.10.10"),
        (PODMAN, "version", Level.OK, "Podman 4.3.1"),
        (replace(PODMAN, version="5.4.2"), "version", Level.OK, "Podman 5.4.2"),
        (replace(PODMAN, version="3.4.4"), "version", Level.WARNING, "tested from 4.3"),
        (replace(PODMAN, limits=frozenset({"memory", "pids"})), "memory limit", Level.OK, "swap"),
        (replace(PODMAN, limits=frozenset({"pids"})), "memory limit", Level.ERROR, "cgroup_enable=memory"),
        (PODMAN, "Podman", Level.WARNING, "no GPU before Podman 5.4"),
        (replace(PODMAN, version="5.4.2", gpu_drivers=("cdi",)), "Podman", Level.OK, "GPUs by CDI alone"),
    ],
)
def test_the_engine(info, check, level, said):
    found = {finding.check: finding for finding in doctor_findings.engine(info)}
    assert (found[check].level, said in found[check].sentence) == (level, True)


@pytest.mark.parametrize(
    ("missing", "check", "allowed", "level"),
    [
        ("memory", "memory limit", (), Level.ERROR),
        ("memory", "memory limit", ("memory",), Level.WARNING),
        ("pids", "process limit", (), Level.ERROR),
        ("pids", "process limit", ("pids",), Level.WARNING),
        ("swap", "memory limit", (), Level.WARNING),  # where there is none, nothing follows
        ("swap", "memory limit", ("memory",), Level.WARNING),
    ],
)
def test_a_limit_that_does_not_hold_is_as_grave_as_what_follows(missing, check, allowed, level):
    """A plugin does not start, or does without the limit where the operator allows it."""
    info = replace(GOOD, limits=GOOD.limits - {missing})
    found = next(each for each in doctor_findings.engine(info, (), allowed) if each.check == check)
    assert found.level is level
    assert ("LIMITS_UNSUPPORTED" in found.sentence) != bool(allowed)
    assert "ORCHESTRATOR_ALLOW_UNLIMITED" in found.sentence


@pytest.mark.parametrize(
    ("free", "level"), [(None, Level.OK), (2**40, Level.OK), (2**31, Level.WARNING), (2**20, Level.ERROR)]
)
def test_the_disk(free, level):
    assert doctor_findings.disk_space("state", Path("/x"), free).level is level


def test_a_plugins_missing_models_and_secrets_are_shown_with_their_whole_paths(tmp_path):
    """Which no answer of the API has."""
    manifest = Manifest.model_validate(
        {
            "name": "reader",
            "version": "1",
            "description": "Reads.",
            "entrypoint": "r.p:R",
            "models": {"w": "w.gguf", "there": "there.bin"},
            "secrets": ["KEY"],
        }
    )
    (tmp_path / "there.bin").write_bytes(b"x")
    checks = DependencyChecker(None, SecretSource(tmp_path / "secrets", {})).check(manifest, tmp_path)
    found = list(doctor_findings.dependencies("reader", checks))
    assert [(finding.subject, finding.check, finding.level) for finding in found] == [
        ("plugins", "reader", Level.WARNING)
    ] * 2
    assert found[0].sentence.endswith(f" On this host: {tmp_path}/w.gguf")
    assert found[1].sentence.endswith(f" On this host: {tmp_path}/secrets/reader/KEY")


@pytest.mark.parametrize(
    ("chosen", "shared", "level", "said"),
    [
        ("auto", True, Level.OK, "Unix"),
        ("auto", False, Level.OK, "TCP"),
        ("tcp", True, Level.OK, "TCP"),
        ("unix", False, Level.ERROR, "ORCHESTRATOR_CHANNEL"),
    ],
)
def test_the_channel(chosen, shared, level, said):
    finding = doctor_findings.channel(chosen, shared=shared)
    assert (finding.level, said in finding.sentence) == (level, True)


def test_the_longest_run_folder_is_the_longest_that_works():
    longest = Path("/" + "x" * (107 - len("/01234567/89abcdef/control.sock") - 1))
    assert doctor_findings.run_folder_length(longest).level is Level.OK
    assert doctor_findings.run_folder_length(Path(f"{longest}x")).level is Level.ERROR


@pytest.mark.parametrize(
    ("count", "loopback", "level"), [(0, True, Level.OK), (0, False, Level.ERROR), (1, False, Level.OK)]
)
def test_keys(count, loopback, level):
    assert doctor_findings.keys(count, loopback=loopback).level is level


def test_passwords_and_secrets_are_not_shown():
    environment = {"HTTPS_PROXY": "http://user:hunter2@proxy:1", "PIP_INDEX_URL": "https://u:hunter2@index/simple"}
    said = " ".join(finding.sentence for finding in doctor_findings.network(environment, None))
    assert "user:***@proxy:1" in said and "hunter2" not in said
    assert doctor_findings.shown("api_key", "hunter2") == "***"
    assert doctor_findings.shown("operator_key_file", Path("/run/key")) == "/run/key"


def test_tokens_of_package_indexes_are_not_shown():
    environment = {"PIP_EXTRA_INDEX_URL": "https://t0ken@a.example/s https://u:hunter2@b.example/s"}
    said = " ".join(finding.sentence for finding in doctor_findings.network(environment, None))
    assert "https://***@a.example/s https://u:***@b.example/s" in said


def test_settings_are_shown_as_they_would_be_written():
    defaults = dict(Settings())
    shown = {name: doctor_findings.shown(name, value) for name, value in defaults.items()}
    assert shown["history_max_age"] == "720h" and shown["default_memory"] == "1GiB" and shown["models_dir"] == "none"
    for name in ("history_max_age", "default_memory", "stop_grace", "upload_min_rate"):
        assert getattr(Settings(**{name: shown[name]}), name) == defaults[name]


def test_problems_are_listed_and_set_the_exit_code(monkeypatch, tmp_path):
    (tmp_path / "plugins" / "bad").mkdir(parents=True)
    (tmp_path / "plugins" / "bad" / "plugin.yaml").write_text("version: [")
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", f"{tmp_path}/plugins:{tmp_path}/none")
    monkeypatch.setenv("ORCHESTRATOR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ORCHESTRATOR_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    result = CliRunner().invoke(commands.command_line("doctor"), ["doctor", "--json"])
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    wrong = {(finding["subject"], finding["check"]) for finding in report["findings"] if finding["level"] == "error"}
    assert {("engine", "reachable"), ("plugins", "bad"), ("plugins", "folder")} <= wrong
    assert report["settings"]["ORCHESTRATOR_STATE_DIR"] == str(tmp_path / "state")


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("20.10.5+dfsg1", Level.WARNING),
        ("20.10.9", Level.WARNING),
        ("19.03.1", Level.WARNING),
        ("20.10.10", Level.OK),
        ("29.0.1", Level.OK),
        ("", Level.OK),
    ],
)
def test_a_docker_whose_seccomp_profile_lets_no_thread_start(version, level):
    found = {finding.check: finding for finding in doctor_findings.engine(replace(GOOD, version=version))}
    assert found["version"].level is level
    assert (level is Level.OK) == ("glibc 2.34" not in found["version"].sentence)


def test_dockers_snap_is_recognised():
    snap = replace(GOOD, data_dir="/var/snap/docker/common/var-lib-docker")
    found = {finding.check: finding for finding in doctor_findings.engine(snap)}
    assert found["version"].level is Level.ERROR
    assert "snap" in found["version"].sentence and "Install Docker's own packages" in found["version"].sentence


@pytest.mark.parametrize(
    ("rootless", "limited", "level", "said"),
    [
        (True, (), Level.WARNING, "Delegate=cpu"),
        (True, ("ocr",), Level.ERROR, "refuses to start ocr. Remove `limits.cpus`"),
        (False, ("ocr",), Level.ERROR, "CONFIG_CFS_BANDWIDTH"),
    ],
)
def test_an_engine_without_a_cpu_controller(rootless, limited, level, said):
    engine = replace(GOOD, limits=frozenset({"memory", "swap", "pids"}), rootless=rootless)
    found = {finding.check: finding for finding in doctor_findings.engine(engine, limited)}
    assert (found["CPU limit"].level, said in found["CPU limit"].sentence) == (level, True)


@pytest.mark.parametrize(
    ("total", "limits", "level"),
    [
        (16 * 2**30, {"a": 8 * 2**30, "b": 8 * 2**30}, Level.OK),
        (16 * 2**30, {"a": 8 * 2**30, "b": 8 * 2**30 + 1}, Level.WARNING),
        (0, {"a": 2**50}, Level.OK),
        (2**30, {}, Level.OK),
    ],
)
def test_the_sum_of_the_memory_limits(total, limits, level):
    finding = doctor_findings.memory_sum(total, limits)
    assert finding.level is level
    if level is Level.WARNING:
        assert "16.0 GiB" in finding.sentence and "(the greatest: b, a)" in finding.sentence


@pytest.mark.parametrize(
    ("problem", "rootless", "lingers", "said"),
    [
        ("/run/x goes", False, False, "/run/x goes"),
        ("/run/x goes", True, False, "/run/x goes"),
        (None, True, False, "loginctl enable-linger"),
        (None, True, True, None),
        (None, False, False, None),
    ],
)
def test_what_does_not_outlive_a_logout(problem, rootless, lingers, said):
    finding = doctor_findings.lingering(problem, rootless=rootless, lingers=lingers)
    if said is None:
        assert finding is None
    else:
        assert finding.level is Level.WARNING
        assert said in finding.sentence


def test_an_engine_whose_socket_may_not_be_used_is_not_to_be_started():
    finding = doctor_findings.unreachable("cannot reach the container engine: Permission denied", ())
    assert "group docker" in finding.sentence and "Start it" not in finding.sentence
    assert "label:disable" in finding.sentence


def test_another_engines_socket_is_named():
    finding = doctor_findings.unreachable("cannot reach it", [Path("/run/user/1000/docker.sock")])
    assert "Start it" in finding.sentence
    assert finding.sentence.endswith("export DOCKER_HOST=unix:///run/user/1000/docker.sock")


# The engine, as `doctor` asks it


@pytest.fixture
async def dockerd(tmp_path, monkeypatch):
    dockerd = FakeDockerd(tmp_path / "docker.sock")
    dockerd.answers["GET", "/info"] = {"ServerVersion": "28.0.0", "MemTotal": 2**30, "CpuCfsQuota": False}
    dockerd.answers["GET", "/images/python:1/json"] = {"Id": "sha256:1"}
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    await dockerd.start()
    yield dockerd
    await dockerd.stop()


async def examined(tmp_path):
    (tmp_path / "plugins").mkdir(exist_ok=True)
    settings = Settings(
        plugins_dirs=(tmp_path / "plugins",),
        state_dir=tmp_path / "state",
        run_dir=tmp_path / "run",
        python_image="python:1",
    )
    return {(each.subject, each.check): each for each in await doctor.examine(settings)}


def a_context(tmp_path, name, address):
    meta = tmp_path / "config" / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": address}}}))
    (tmp_path / "config" / "config.json").write_text(json.dumps({"currentContext": name}))


async def test_the_engine_of_a_docker_context_is_shown_with_what_names_it(dockerd, tmp_path):
    a_context(tmp_path, "colima", f"unix://{dockerd.path}")
    found = await examined(tmp_path)
    assert found["engine", "address"].sentence == f"unix://{dockerd.path} (docker's context colima)"
    assert found["engine", "version"].sentence.startswith("Docker 28.0.0")
    assert found["engine", "CPU limit"].level is Level.WARNING


async def test_a_context_that_does_not_exist_is_the_finding(dockerd, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "lost")
    found = await examined(tmp_path)
    assert found["engine", "address"].level is Level.ERROR
    assert "'lost' does not exist" in found["engine", "address"].sentence
    assert ("engine", "version") not in found


async def test_all_that_a_socket_proxy_refuses_is_one_finding(dockerd, tmp_path, monkeypatch):
    async def forbidden(_):
        return web.Response(status=403, text="<html>no</html>", content_type="text/html")

    monkeypatch.setenv("DOCKER_HOST", f"unix://{dockerd.path}")
    dockerd.answers["GET", "/info"] = forbidden
    dockerd.answers["POST", "/build"] = forbidden
    found = await examined(tmp_path)
    assert found["engine", "permissions"].level is Level.ERROR
    assert "does not allow INFO, BUILD. Allow all of PING, VERSION, INFO," in found["engine", "permissions"].sentence
    assert "GET /info was refused" in found["engine", "answers"].sentence
    assert ("engine", "reachable") not in found  # it is


async def test_a_plugin_may_not_have_more_memory_than_there_is(dockerd, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{dockerd.path}")
    (tmp_path / "plugins" / "big").mkdir(parents=True)
    (tmp_path / "plugins" / "big" / "plugin.yaml").write_text(
        "version: 0.1.0\ndescription: B.\nentrypoint: b.p:B\nlimits: {memory: 2GiB, cpus: 1}\n"
    )
    found = await examined(tmp_path)
    assert found["plugins", "memory limits"].level is Level.WARNING, found["plugins", "memory limits"]
    assert "refuses to start big" in found["engine", "CPU limit"].sentence


async def test_each_replica_may_use_the_memory(dockerd, tmp_path, monkeypatch):
    """One instance would fit the machine, twelve do not."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{dockerd.path}")
    for name, replicas in (("one", 1), ("many", 12)):
        (tmp_path / "plugins" / name).mkdir(parents=True)
        (tmp_path / "plugins" / name / "plugin.yaml").write_text(
            f"version: 0.1.0\ndescription: B.\nentrypoint: b.p:B\nlimits: {{memory: 100MiB}}\nreplicas: {replicas}\n"
        )
    found = await examined(tmp_path)
    assert "1.27 GiB together" in found["plugins", "memory limits"].sentence
    assert found["plugins", "memory limits"].level is Level.WARNING
