"""Requests in Docker's JSON, and its answers as this project's types. Needs no Docker."""

import io
import json
import re
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.containers.docker_engine import answers, bodies
from orchestrator.containers.docker_engine.build import tar_stream
from orchestrator.containers.docker_engine.capabilities import engine_info
from orchestrator.containers.docker_engine.decoding import BuildOutput, LogLines
from orchestrator.containers.docker_engine.gateways import Gateways
from orchestrator.containers.spec import (
    BindMount,
    ContainerSpec,
    DeviceGrant,
    EngineInfo,
    Gateway,
    Volume,
    VolumeStatus,
)

SPEC = {"name": "n", "image": "i", "labels": {}, "environment": {}, "memory": 1, "pids": 1}


def test_no_specification_requests_privileges():
    body = bodies.create_body(ContainerSpec(**SPEC, network="bridge", read_only=False), selinux=False)["HostConfig"]
    assert (body["Privileged"], body["CapDrop"], body["SecurityOpt"]) == (False, ["ALL"], ["no-new-privileges"])
    assert (body["NetworkMode"], body["ReadonlyRootfs"]) == ("bridge", False)


def test_a_command_is_left_to_the_image_unless_it_is_given():
    assert "Cmd" not in bodies.create_body(ContainerSpec(**SPEC), selinux=False)
    assert bodies.create_body(ContainerSpec(**SPEC, command=("a", "b")), selinux=False)["Cmd"] == ["a", "b"]


def test_cpus_without_a_limit_are_not_mentioned():
    assert "NanoCpus" not in bodies.create_body(ContainerSpec(**SPEC), selinux=False)["HostConfig"]


@pytest.mark.parametrize(
    ("unlimited", "memory", "swap", "pids"),
    [
        ((), 1, 1, 1),
        (("memory",), 0, 0, 1),
        (("swap",), 1, -1, 1),
        (("memory", "swap"), 0, -1, 1),
        (("pids",), 1, 1, 0),
    ],
)
def test_an_engine_that_refuses_a_limit_is_not_asked_for_it(unlimited, memory, swap, pids):
    spec = ContainerSpec(**SPEC, unlimited=frozenset(unlimited))
    body = bodies.create_body(spec, selinux=False)["HostConfig"]
    assert (body["Memory"], body["MemorySwap"], body["PidsLimit"]) == (memory, swap, pids)


def test_selinux_hosts_relabel_mounts():
    mounts = (BindMount(Path("/models"), "/models"), BindMount(Path("/run/x"), "/run/plugin", read_only=False))
    body = bodies.create_body(ContainerSpec(**SPEC, mounts=mounts), selinux=True)["HostConfig"]
    assert body["Binds"] == ["/models:/models:ro,z", "/run/x:/run/plugin:rw,Z"]
    assert "Mounts" not in body


class RecordingClient:
    """An engine's client that creates whatever is asked for."""

    def __init__(self):
        self.bodies = {}

    def create_volume(self, name, *, labels, **_):
        return {"Name": name, "Labels": labels}

    def create_container_from_config(self, body, name):
        self.bodies[name] = body
        return {"Id": name}

    async def change(self, function):
        return function(self)


async def created_with_gateway(*names, selinux):
    """The bodies of these containers and of their gateways."""
    client = RecordingClient()
    info = EngineInfo("28", "Linux", "overlay2", "2", (), rootless=False, selinux=selinux)
    gateway = Gateway("runtime", Path("/run/x/token"), "/run/plugin")
    for name in names:
        spec = ContainerSpec(**{**SPEC, "name": name}, gateway=gateway)
        body = bodies.create_body(spec, selinux=selinux)
        await Gateways(client).create(spec, gateway, body, [], extra_labels={}, info=info)
    return client.bodies


async def test_a_gateway_has_its_plugins_selinux_level_which_no_other_has():
    """SELinux lets a container connect to sockets of its own level alone."""
    names = [f"plugin-{number}" for number in range(20)]
    found = await created_with_gateway(*names, selinux=True)
    options = {name: body["HostConfig"]["SecurityOpt"] for name, body in found.items()}
    assert all(option[0] == "no-new-privileges" for option in options.values())
    levels = [options[name][1] for name in names]
    assert levels == [options[f"{name}-gateway"][1] for name in names]
    assert all(re.fullmatch(r"label=level:s0:c\d{1,4},c\d{1,4}", level) for level in levels)
    assert len(set(levels)) == len(names)


async def test_without_selinux_no_level_is_asked_for():
    found = await created_with_gateway("plugin-1", selinux=False)
    assert [body["HostConfig"]["SecurityOpt"] for body in found.values()] == [["no-new-privileges"]] * 2


def test_a_volume_is_anonymous_named_or_held_to_a_size():
    volumes = (Volume("/scratch"), Volume("/cache", "cache-1", {"of": "reader"}), Volume("/sized", size=1024))
    for selinux in (False, True):
        body = bodies.create_body(ContainerSpec(**SPEC, volumes=volumes), selinux=selinux)
        assert body["Volumes"] == {"/scratch": {}}
        named, sized = body["HostConfig"]["Mounts"]
        assert named == {
            "Type": "volume",
            "Source": "cache-1",
            "Target": "/cache",
            "VolumeOptions": {"Labels": {"of": "reader"}},
        }
        assert "Source" not in sized
        assert sized["VolumeOptions"]["DriverConfig"] == {"Name": "local", "Options": {"size": "1024"}}


def test_sizes_of_volumes_are_read_from_any_answer():
    listed = {"Volumes": [{"Name": "a", "Labels": {"x": "y"}}, {"Name": "b", "Labels": None}]}
    assert answers.volumes(listed) == (VolumeStatus("a", {"x": "y"}), VolumeStatus("b", {}))
    assert answers.volumes({"Volumes": None}) == answers.volumes("?") == ()
    used = {
        "Volumes": [{"Name": "a", "UsageData": {"Size": 5}}, {"Name": "b", "UsageData": {"Size": -1}}, {"Name": "c"}]
    }
    assert answers.volume_sizes(used) == {"a": 5}


def test_nvidia_devices_are_requested_by_id():
    grant = DeviceGrant("nvidia", ("GPU-1", "GPU-2"))
    body = bodies.create_body(ContainerSpec(**SPEC, devices=grant), selinux=False)["HostConfig"]
    assert body["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu", "compute", "utility"]]}
    ]


def test_cdi_devices_are_requested_by_name():
    grant = DeviceGrant("cdi", ("nvidia.com/gpu=GPU-1",))
    body = bodies.create_body(ContainerSpec(**SPEC, devices=grant), selinux=False)["HostConfig"]
    assert body["DeviceRequests"] == [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1"]}]


def test_the_runtime_nvidia_is_told_by_variables():
    grant = DeviceGrant("runtime", ("GPU-1", "GPU-2"), ("gpu", "compute", "utility", "video"))
    body = bodies.create_body(ContainerSpec(**SPEC, devices=grant), selinux=False)
    assert (body["HostConfig"]["Runtime"], body["HostConfig"]["DeviceRequests"]) == ("nvidia", [])
    assert _variables(body)["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert _variables(body)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility,video"


def _variables(body):
    return dict(entry.partition("=")[::2] for entry in body["Env"])


def test_a_container_without_gpus_is_given_none_whatever_its_image_or_specification_demands():
    """Where the engine's default runtime is NVIDIA's, an image would get all that its variable names."""
    spec = ContainerSpec(**{**SPEC, "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}})
    body = bodies.create_body(spec, selinux=False)
    assert _variables(body)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "CUDA_VISIBLE_DEVICES" not in _variables(body)
    assert "Runtime" not in body["HostConfig"]


def test_with_cdi_the_runtime_adds_nothing():
    grant = DeviceGrant("cdi", ("nvidia.com/gpu=0",), uuids=("GPU-1",))
    assert _variables(bodies.create_body(ContainerSpec(**SPEC, devices=grant), selinux=False)) == {
        "NVIDIA_VISIBLE_DEVICES": "void",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
    }


@pytest.mark.parametrize("driver", ["nvidia", "cdi", "runtime"])
def test_cuda_is_held_to_the_granted_devices_whatever_they_are_called(driver):
    """WSL2 puts all GPUs into every container."""
    grant = DeviceGrant(driver, ("0", "1"), uuids=("GPU-1", "MIG-2"))
    body = bodies.create_body(ContainerSpec(**SPEC, devices=grant), selinux=False)
    assert _variables(body)["CUDA_VISIBLE_DEVICES"] == "GPU-1,MIG-2"


def test_only_a_container_with_gpus_joins_the_groups_of_their_nodes():
    grant = DeviceGrant("nvidia", ("GPU-1",), groups=(44, 109))
    body = bodies.create_body(ContainerSpec(**SPEC, devices=grant), selinux=False)["HostConfig"]
    assert body["GroupAdd"] == ["44", "109"]
    assert "GroupAdd" not in bodies.create_body(ContainerSpec(**SPEC), selinux=False)["HostConfig"]


@pytest.mark.parametrize(
    ("variables", "visible"),
    [(["NVIDIA_VISIBLE_DEVICES=all"], "all"), (["A=b", "NVIDIA_VISIBLE_DEVICES="], ""), ([], "void"), (None, "void")],
)
def test_what_a_container_may_see_is_read(variables, visible):
    held = answers.isolation({"Config": {"Env": variables}, "HostConfig": {"Runtime": "nvidia"}})
    assert (held.visible_gpus, held.runtime) == (visible, "nvidia")


@pytest.mark.parametrize(("grace", "seconds"), [(0, 0), (0.2, 1), (2.0, 2), (2.1, 3), (-1, 0)])
def test_a_fraction_of_a_second_of_grace_is_rounded_up(grace, seconds):
    assert bodies.whole_seconds(grace) == seconds


def test_an_inspection_is_read():
    status = answers.container(
        {
            "Id": "c1",
            "Name": "/name",
            "Image": "sha256:1",
            "Config": {"Labels": {"a": "b"}},
            "State": {
                "Status": "exited",
                "ExitCode": 137,
                "OOMKilled": True,
                "StartedAt": "2024-05-06T07:08:09.123456789Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
                "Error": "e",
                "Health": {"Status": "unhealthy"},
            },
        }
    )
    assert status.id == "c1"
    assert status.name == "name"
    assert status.labels == {"a": "b"}
    assert (status.state, status.exit_code, status.oom_killed, status.health) == ("exited", 137, True, "unhealthy")
    assert status.started_at == datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    assert status.finished_at is None
    assert status.error == "e"


@pytest.mark.parametrize(
    ("entry", "state", "exit_code", "health"),
    [
        ({"State": "running", "Status": "Up 3 seconds (healthy)"}, "running", None, "healthy"),
        ({"State": "running", "Status": "Up 1 second (health: starting)"}, "running", None, "starting"),
        ({"State": "exited", "Status": "Exited (137) 2 hours ago"}, "exited", 137, "none"),
        ({"State": "created", "Status": "Created"}, "created", None, "none"),
        ({"State": "restarting", "Status": "Restarting (1) 1 second ago"}, "running", None, "none"),
        ({"Status": "Up 3 seconds"}, "running", None, "none"),
        ({"State": {"new": "shape"}, "Status": None}, "exited", None, "none"),
    ],
)
def test_a_list_entry_is_read(entry, state, exit_code, health):
    status = answers.listed({"Id": "c1", "Names": ["/n"], "Labels": None, **entry})
    assert (status.state, status.exit_code, status.health, status.name) == (state, exit_code, health, "n")


@pytest.mark.parametrize("entry", [None, 7, [], {}, {"Id": None}])
def test_a_list_entry_without_an_id_is_none(entry):
    assert answers.listed(entry) is None


@pytest.mark.parametrize(
    ("answer", "drivers"),
    [
        ({}, ()),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, ("nvidia",)),
        ({"CDISpecDirs": ["/etc/cdi"]}, ("cdi",)),
        ({"CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": []}, ()),
        ({"CDISpecDirs": [], "DiscoveredDevices": None}, ()),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, ("cdi",)),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/net=0"}, None]}, ()),
        ({"Runtimes": {"nvidia": {}}, "CDISpecDirs": ["/etc/cdi"]}, ("nvidia", "cdi")),
    ],
)
def test_gpu_drivers_are_those_that_the_engine_reports(answer, drivers):
    assert engine_info(answer).gpu_drivers == drivers


@pytest.mark.parametrize(
    ("answer", "devices"),
    [
        ({"CDISpecDirs": ["/etc/cdi"]}, None),  # Docker 25 to 28.1
        ({"CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": []}, ()),
        (
            {"DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}, {"ID": "v.com/net=0"}, {"ID": "nvidia.com/gpu=all"}, 7]},
            ("nvidia.com/gpu=0", "nvidia.com/gpu=all"),
        ),
    ],
)
def test_the_names_of_cdi_devices_are_those_that_the_engine_lists(answer, devices):
    assert engine_info(answer).cdi_devices == devices


@pytest.mark.parametrize(("answer", "cores"), [({"NCPU": 64}, 64), ({}, 0), ({"NCPU": "many"}, 0), ({"NCPU": -1}, 0)])
def test_the_cores_of_the_engines_machine(answer, cores):
    assert engine_info(answer).cores == cores


def test_security_options_are_read():
    info = engine_info({"SecurityOptions": ["name=seccomp,profile=default", "name=selinux", "name=rootless", None]})
    assert info.selinux
    assert info.rootless


def test_log_frames_become_lines_however_they_are_cut():
    def frame(stream: int, text: bytes) -> bytes:
        return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text

    data = frame(1, b"one\ntw") + frame(2, b"error\n") + frame(1, b"o\r\n") + frame(1, b"\xffthree")
    for size in (1, 3, 8, 1000):
        lines = LogLines()
        seen = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
        assert [*seen, *lines.rest()] == ["one", "error", "two", "�three"]


def test_build_output_comes_as_lines_and_ends_with_the_image():
    lines = []
    output = BuildOutput(lines.append)
    data = b'{"stream":"Step 1"}\n{"stream":" : FROM\\nrest"}\r\nnonsense\n{"aux":{"ID":"sha256:1"}}\n{"stream":"!"}'
    for at in range(0, len(data), 7):
        output.feed(data[at : at + 7])
    output.end()
    assert lines == ["Step 1 : FROM", "rest!"]
    assert (output.image, output.error) == ("sha256:1", "")


def test_a_log_that_never_ends_a_line_comes_in_long_lines():
    """Nothing is lost, at most one line is buffered, and the cost grows with the length, not with its square."""
    frame = bytes([1, 0, 0, 0]) + (1000).to_bytes(4, "big") + b"x" * 1000
    lines = LogLines()
    seen = [line for _ in range(4000) for line in lines.feed(frame)]
    assert {len(line) for line in seen} == {66_000}
    assert sum(map(len, [*seen, *lines.rest()])) == 4_000_000


def test_a_build_that_never_ends_a_line_comes_in_long_lines():
    lines = []
    output = BuildOutput(lines.append)
    for _ in range(4000):
        output.feed(json.dumps({"stream": "." * 1000}).encode() + b"\n")
    assert {len(line) for line in lines} == {66_000}
    output.end()
    assert sum(map(len, lines)) == 4_000_000


def test_an_endless_message_of_a_build_is_skipped_and_not_buffered():
    lines = []
    output = BuildOutput(lines.append)
    for _ in range(300):
        output.feed(b"{" + b"x" * 65536)
    assert len(output._buffer) <= 1024 * 1024
    output.feed(b'\n{"stream":"on it goes\\n"}\n')
    assert lines == ["on it goes"]


def test_a_build_context_is_readable_by_everyone_and_always_the_same(tmp_path):
    (tmp_path / "secretive").mkdir(mode=0o700)
    (tmp_path / "secretive" / "file").write_bytes(b"x" * 1_000_000)
    (tmp_path / "secretive" / "file").chmod(0o600)
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o700)
    (tmp_path / "link").symlink_to("run")
    (tmp_path / ("long" * 50)).write_text("a name of 200 letters")
    pieces = list(tar_stream(tmp_path))
    assert max(map(len, pieces)) <= 256 * 1024
    archive = b"".join(pieces)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert tar.extractfile("secretive/file").read() == b"x" * 1_000_000
    assert {name: oct(member.mode) for name, member in members.items() if len(name) < 50} == {
        "secretive": "0o755",
        "secretive/file": "0o644",
        "run": "0o755",
        "link": "0o777",
    }
    assert members["link"].linkname == "run"
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}
    (tmp_path / "run").touch()
    assert b"".join(tar_stream(tmp_path)) == archive


def test_events_are_requested_with_their_labels_and_start():
    query = bodies.events_query({"a": "b"}, datetime(2024, 1, 1, tzinfo=UTC))
    assert json.dumps(query["filters"]) == '{"type": ["container"], "label": ["a=b"]}'
    assert query["since"] == "1704067200.000000000"


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ({"Titles": ["UID", "PID", "PPID"], "Processes": [["root", "412", "1"], ["root", "415", "412"]]}, {412, 415}),
        ({"Titles": ["HPID"], "Processes": [["98"]]}, {98}),  # Podman's
        ({"Titles": ["PID", "CMD"], "Processes": [["?", "x"], [], "odd", ["7", "y"]]}, {7}),
        ({"Titles": ["USER"], "Processes": [["root"]]}, set()),
        ({"Titles": None, "Processes": None}, set()),
        ([], set()),
    ],
)
def test_the_processes_of_a_container_are_read_from_the_column_of_their_numbers(answer, numbers):
    assert answers.processes(answer) == numbers
