"""`doctor`: each finding is ok or says what to do; no secret is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.audit.findings import Level
from orchestrator.cli import commands, doctor_findings
from orchestrator.containers.spec import EngineInfo
from orchestrator.gpus.inventory import FaultKind, GpuDevice, GpuFault, GpuInventory
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
        (replace(GOOD, limits=frozenset({"memory", "swap"})), "process limit", Level.ERROR, "fork bomb"),
        (replace(GOOD, version="19.03.1"), "version", Level.WARNING, "Install a newer one"),
        (replace(GOOD, version="20.10.24+dfsg1", rootless=True), "cgroups", Level.OK, "rootless"),
        (replace(GOOD, version="4.9.3"), "version", Level.WARNING, "tested from 20.10"),
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


def _inventory(*devices, **facts):
    return GpuInventory(devices, datetime.now(UTC), 0.0, driver_version="570.1", cuda_version="12.8", **facts)


def test_a_sick_gpu_is_named_beside_the_ones_that_serve():
    sick = {1: GpuFault(FaultKind.UNKNOWN, "Unknown Error", 999)}
    found = list(doctor_findings.gpus(_inventory(GpuDevice("GPU-a", 0), unidentified=sick), ["nvidia"], ["tracker"]))
    (named,) = [finding for finding in found if finding.level is Level.WARNING]
    assert "Unknown Error" in str(named)
    assert any("GPU 0; driver 570.1" in str(finding) for finding in found)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"seconds": 25.0}, "nvidia-smi -pm 1"),
        ({"old_binding": "the package pynvml 11.5.0"}, "pip uninstall pynvml"),
    ],
)
def test_a_slow_driver_and_an_old_binding_are_named_with_the_remedy(facts, said):
    found = list(doctor_findings.gpus(_inventory(GpuDevice("GPU-a", 0), **facts), ["nvidia"], []))
    (named,) = [finding for finding in found if finding.level is Level.WARNING]
    assert said in str(named)
    prompt = doctor_findings.gpus(_inventory(GpuDevice("GPU-a", 0), seconds=0.4), ["nvidia"], [])
    assert {finding.level for finding in prompt} == {Level.OK}
