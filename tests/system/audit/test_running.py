"""The audit of a running orchestrator that is sound, and of one that is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from system.mcp.conftest import connected

from orchestrator.audit.auditor import audit_running
from orchestrator.audit.findings import Finding, Level
from orchestrator.audit.live_checks import (
    Answer,
    check_isolation,
    check_licences,
    check_orphans,
    check_plugin,
    check_statuses,
    check_tools,
)
from orchestrator.containers.spec import BindMount, ContainerIsolation, ContainerSpec
from orchestrator.supervisor.container_policy import LABEL_DEPLOYMENT, InstanceIdentity

HELD = ContainerIsolation(
    user="65532:65532",
    network="none",
    read_only=True,
    privileged=False,
    capabilities_dropped=("ALL",),
    capabilities_added=(),
    security_options=("no-new-privileges",),
    memory=1 << 30,
    memory_and_swap=1 << 30,
    pids=128,
    cpus=None,
    shm=64 << 20,
    restarts="no",
    bounded_logs=True,
    mounts=(BindMount(Path("/run/x"), "/run/plugin", read_only=False),),
    devices=(),
)


def errors(findings: list[Finding]) -> list[str]:
    return [finding.sentence for finding in findings if finding.level is Level.ERROR]


@pytest.fixture
async def health(harness: Harness) -> dict[str, Any]:
    harness.add("reader", tools={"read": lambda: 1})
    await harness.open()
    await harness.settled("reader")
    return await harness.health("reader")


async def test_a_sound_orchestrator_passes(harness, health):
    harness.add("broken", tools={})
    harness.write_raw("worse", "version: [")
    await harness.client.post("/v1/plugins/worse/start")
    deployment = (harness.settings.state_dir / "deployment-id").read_text().strip()
    findings = await audit_running(harness.client, harness.engine, deployment)
    assert errors(findings) == []
    assert {"statuses", "fields", "state", "agreement", "isolation", "orphans"} <= {each.check for each in findings}
    assert any("MANIFEST_INVALID" in each.sentence for each in findings if each.level is Level.WARNING)


async def test_tools_that_mcp_does_not_allow_are_named(harness):
    """Those of a running plugin, whose names no folder tells: `/mcp` leaves the same out."""
    plugin, odd = "reader-of-very-long-names-of-tools", "read_" + "on_" * 31
    harness.add(plugin, tools={"read": lambda: 1, odd: lambda: 1})
    await harness.open()
    await harness.settled(plugin)
    found = [each for each in await audit_running(harness.client, harness.engine, None) if each.check == "tools"]
    ((level, sentence),) = [(each.level, each.sentence) for each in found]
    assert level is Level.WARNING and f"MCP clients do not get the tool '{plugin}.{odd[:20]}" in sentence
    async with connected(harness) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [f"{plugin}.read"]


def test_tools_with_names_that_fit_are_no_finding_but_ok():
    assert [each.level for each in check_tools("reader", [{"name": "read"}])] == [Level.OK]
    assert [each.level for each in check_tools("reader", None)] == [Level.OK]
    assert [each.level for each in check_tools("reader", [{"name": "x" * 130}])] == [Level.WARNING]


async def test_an_orphaned_container_is_found(harness, health):
    deployment = (harness.settings.state_dir / "deployment-id").read_text().strip()
    labels = InstanceIdentity(deployment, "ghost", 1, "0123abcd").labels()
    await harness.engine.create(ContainerSpec("stray", "harness/reader", labels, {}, 1 << 26, 64))
    # Somebody's container of an image that was derived from a plugin's.
    some = {LABEL_DEPLOYMENT: deployment}
    await harness.engine.create(ContainerSpec("other", "harness/reader", some, {}, 1 << 26, 64))
    (sentence,) = errors(await audit_running(harness.client, harness.engine, deployment))
    assert "docker rm --force stray" in sentence


async def test_a_container_of_each_instance_is_looked_at_and_is_no_orphan(harness, health):
    deployment = (harness.settings.state_dir / "deployment-id").read_text().strip()
    await harness.client.post("/v1/plugins/reader/scale", json={"replicas": 3}, params={"wait": 10})
    findings = await audit_running(harness.client, harness.engine, deployment)
    assert errors(findings) == []
    assert len([each for each in findings if each.check == "isolation" and each.subject == "reader"]) == 3


async def test_what_a_key_does_not_see_is_not_to_be_removed(harness, health):
    """Nor is it passed over: it may be an orphan all the same."""
    deployment = (harness.settings.state_dir / "deployment-id").read_text().strip()
    labels = InstanceIdentity(deployment, "ghost", 1, "0123abcd").labels()
    await harness.engine.create(ContainerSpec("stray", "harness/reader", labels, {}, 1 << 26, 64))
    harness.client.headers["Authorization"] = "Bearer po_any"
    findings = await audit_running(harness.client, harness.engine, deployment)
    assert errors(findings) == []
    (sentence,) = [f.sentence for f in findings if f.check == "orphans" and f.level is Level.WARNING]
    assert "stray" in sentence and "docker rm" not in sentence


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"user": ""}, "runs as root"),
        ({"user": "0:0"}, "runs as root"),
        ({"privileged": True}, "privileged"),
        ({"read_only": False}, "is writable"),
        ({"capabilities_dropped": ()}, "capabilities"),
        ({"capabilities_added": ("SYS_ADMIN",)}, "capabilities"),
        ({"security_options": ()}, "no-new-privileges"),
        ({"security_options": ("no-new-privileges", "seccomp=unconfined")}, "security profile"),
        ({"memory": None}, "memory to None"),
        ({"memory_and_swap": 2 << 30}, "swap together"),
        ({"pids": None}, "pids to None"),
        ({"cpus": 2.0}, "cpus to 2.0"),
        ({"shm": 1 << 30}, "shared memory to 1073741824"),
        ({"network": "host"}, "network"),
        ({"restarts": "always"}, "restarts it automatically"),
        ({"bounded_logs": False}, "fill the disk"),
        ({"mounts": (BindMount(Path("/var/run/docker.sock"), "/sock"),)}, "engine's socket"),
        ({"devices": ("nvidia.com/gpu=GPU-1",)}, "GPU-1"),
        ({"devices": ("nvidia.com/gpu=all",)}, "all"),
        ({"visible_gpus": "all"}, "all"),  # an image's wish, granted by a default runtime `nvidia`
        ({"cuda_gpus": frozenset({"GPU-1"})}, "CUDA may use GPUs in it"),
    ],
)
async def test_a_container_that_is_laxer_than_claimed_is_named(health, change, phrase):
    assert errors(check_isolation(health, HELD)) == []
    (sentence,) = errors(check_isolation(health, replace(HELD, **change)))
    assert phrase in sentence


@pytest.mark.parametrize(
    ("claimed", "held", "level"),
    [
        ({"swap_bytes": None}, {"memory_and_swap": None}, Level.OK),  # as ORCHESTRATOR_ALLOW_UNLIMITED allows
        ({"swap_bytes": None, "memory_bytes": None}, {"memory_and_swap": None, "memory": None}, Level.OK),
        ({}, {"memory_and_swap": None}, Level.WARNING),  # no swap on its machine
        ({"swap_bytes": None}, {}, Level.ERROR),
    ],
)
async def test_swap_that_is_not_limited_is_no_fault_where_health_says_so(health, claimed, held, level):
    limits = {**health["limits"], **claimed}
    (finding,) = check_isolation({**health, "limits": limits}, replace(HELD, **held))
    assert finding.level is level
    assert ("swap" in finding.sentence) == (level is not Level.OK)


GRANTED, OTHER = "GPU-5c1b0000-1111-2222-3333-444455556666", "GPU-aaaa0000-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    ("change", "seen", "leak"),
    [
        ({"devices": (GRANTED,), "visible_gpus": GRANTED}, (GRANTED,), ""),
        ({"devices": (f"nvidia.com/gpu={GRANTED}",)}, (GRANTED,), ""),
        ({"devices": ("nvidia.com/gpu=0",)}, (GRANTED,), ""),
        ({"devices": ("nvidia.com/gpu=all",)}, (GRANTED,), ""),
        ({"devices": ("nvidia.com/gpu=1",)}, (GRANTED,), "does not list: 1"),
        ({"visible_gpus": f"{GRANTED},{OTHER}"}, (GRANTED,), f"does not list: {OTHER}"),
        ({"devices": (GRANTED,)}, (GRANTED, OTHER), "WSL2"),
    ],
)
async def test_a_container_with_gpus_has_those_that_it_was_granted(health, change, seen, leak):
    detail = " ".join(f"NVIDIA L4, {uuid}, 550.54.15" for uuid in seen)
    checks = [*health["checks"], {"name": "gpu:nvidia-smi", "ok": True, "detail": detail}]
    with_gpus = {**health, "gpus": [{"uuid": GRANTED, "index": 0, "parent_uuid": None}], "checks": checks}
    found = errors(check_isolation(with_gpus, replace(HELD, **{"cuda_gpus": frozenset({GRANTED}), **change})))
    assert len(found) == bool(leak)
    assert leak in "".join(found)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"state": "SLEEPING"}, "none of the five states"),
        ({"state": "FAILED"}, "FAILED and UNAVAILABLE carry one"),
        ({"state": "FAILED", "reason_code": "STOPPED", "reason": "x"}, "does not belong"),
        ({"state": "FAILED", "reason_code": "BROKEN", "reason": "x"}, "not known"),
        ({"state": "FAILED", "reason_code": "CRASHED", "reason": ""}, "without a sentence"),
        ({"version": "9"}, "differ in version"),
        ({"success_count": -1}, "went back"),
    ],
)
async def test_answers_that_contradict_are_named(health, change, phrase):
    assert errors(list(check_plugin(health, health))) == []
    assert any(phrase in sentence for sentence in errors(list(check_plugin(health, {**health, **change}))))


async def test_a_field_that_is_left_out_is_named(health):
    without = {name: value for name, value in health.items() if name != "stale"}
    assert any("leaves out stale" in sentence for sentence in errors(list(check_plugin(without, health))))


def test_a_500_is_an_error():
    assert errors(check_statuses([Answer("/v1/plugins", 200), Answer("/v1/plugins/x/health", 500)])) == [
        "GET /v1/plugins/x/health answered 500."
    ]


def test_known_containers_are_no_orphans():
    assert errors(check_orphans({"a": "abcdef012345" + "0" * 52}, {"abcdef012345"})) == []


def test_licences():
    output = '{"good": ["1", "MIT"], "bad": ["2", "GNU Affero General Public License v3"], "silent": ["3", ""]}'
    findings = check_licences("x", output)
    assert [finding.level for finding in findings] == [Level.ERROR, Level.WARNING]
    assert "bad 2" in findings[0].sentence
    assert [finding.level for finding in check_licences("x", "no json")] == [Level.WARNING]
