"""Podman's Docker API where it differs from Docker's, by its own words (4.3.1 and 5.4.2). Needs no Podman."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from docker.auth import INDEX_NAME

from orchestrator.containers.docker_engine import Bounds, DockerEngine, answers, podman
from orchestrator.containers.docker_engine.capabilities import engine_info
from orchestrator.containers.spec import BindMount, ContainerSpec, DeviceGrant, EngineInfo, Volume
from orchestrator.errors import DeviceRequestError, EngineRefusedError, NotFoundError

from .fake_dockerd import FakeDockerd, streamed

OURS = {"deployment": "1", "plugin": "reader"}
LOOKALIKES = ({}, {"deployment": "1"}, {"plugin": "reader"}, {"deployment": "2", "plugin": "reader"})
"""Labels of other software: none, some, or others' values."""
NOT_RUNNING = "can only kill running containers. 5f is in state exited: container state improper"


def info(version: str = "4.3.1", **fields: Any) -> dict[str, Any]:
    return {"ServerVersion": version, "BuildahVersion": "1.28.2", "Runtimes": {"crun": {}}} | fields


@pytest.fixture(params=[info(), info("5.4.2"), {"ServerVersion": "26.1.5"}], ids=["podman 4", "podman 5", "docker"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FakeDockerd]:
    service = FakeDockerd(tmp_path / "engine.sock")
    service.answers["GET", "/info"] = request.param
    if "BuildahVersion" in request.param:
        service.ping_headers = {"Api-Version": "1.41", "Libpod-Api-Version": request.param["ServerVersion"]}
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
async def engine(service: FakeDockerd) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(service.environment, bounds=Bounds(query=5))
    yield engine
    await engine.close()


def spec(**fields: Any) -> ContainerSpec:
    return ContainerSpec("n", "i", fields.pop("labels", {}), {}, memory=1, pids=1, **fields)


def test_podman_is_told_from_docker() -> None:
    assert engine_info(info()).product == "Podman"
    assert engine_info({"ServerVersion": "26.1.5"}).product == "Docker"


@pytest.mark.parametrize(
    ("version", "drivers"), [("4.3.1", ()), ("5.3.0", ()), ("5.4.2", ("cdi",)), ("6.0.0-dev", ("cdi",)), ("", ())]
)
def test_which_gpu_requests_a_podman_serves(version: str, drivers: tuple[str, ...]) -> None:
    """A runtime called nvidia says nothing: no version takes requests of that driver."""
    assert engine_info(info(version, Runtimes={"nvidia": {}})).gpu_drivers == drivers


@pytest.mark.parametrize(
    ("version", "driver", "taken"),
    [("4.3.1", "nvidia", False), ("4.3.1", "cdi", False), ("5.4.2", "nvidia", False), ("5.4.2", "cdi", True)],
)
def test_a_gpu_that_would_be_left_out_in_silence_is_refused(version: str, driver: str, taken: bool) -> None:
    with_gpu = spec(devices=DeviceGrant(driver, ("GPU-1",)))
    if taken:
        assert podman.adapted(with_gpu, engine_info(info(version))).devices == with_gpu.devices
        return
    with pytest.raises(DeviceRequestError, match=r"without its GPU; Podman 5\.4"):
        podman.adapted(with_gpu, engine_info(info(version)))


@pytest.mark.parametrize("service", [info(), info("5.4.2")], indirect=True)
async def test_no_container_is_created_for_a_gpu_that_would_be_left_out(
    service: FakeDockerd, engine: DockerEngine
) -> None:
    with pytest.raises(DeviceRequestError):
        await engine.create(spec(devices=DeviceGrant("nvidia", ("GPU-1",))))
    assert not [path for path in service.requested if path.endswith("/create")]


def test_the_folders_that_podman_adds_are_closed() -> None:
    known = engine_info(info())
    assert podman.adapted(spec(tmpfs={"/tmp": "rw"}), known).tmpfs == {
        "/tmp": "rw",
        "/run": "ro,size=16m",
        "/var/tmp": "ro,size=16m",
    }
    own = spec(
        tmpfs={"/run": "rw"},
        volumes=(Volume("/var/tmp"),),
    )
    assert podman.adapted(own, known).tmpfs == {"/run": "rw"}
    mounted = spec(mounts=(BindMount(Path("/x"), "/run"),))
    assert "/run" not in podman.adapted(mounted, known).tmpfs
    assert podman.adapted(spec(read_only=False), known).tmpfs == {}


STATUS = "Name:\tpython3\nCapInh:\t{0:016x}\nCapPrm:\t{0:016x}\nCapEff:\t{0:016x}\nCapBnd:\t{1:016x}\n"
MOUNTS = """\
235 98 0:66 / / ro,relatime - overlay overlay rw,lowerdir=/x
236 235 0:69 / /dev rw,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755
253 236 0:65 / /dev/shm rw,nosuid,nodev - tmpfs shm rw,size=64000k
237 235 0:70 / /tmp rw,nosuid,nodev,relatime - tmpfs tmpfs rw,size=1024k
238 235 0:71 / /run ro,nosuid,nodev,relatime - tmpfs tmpfs rw,size=4k
252 235 0:87 / /var/tmp rw,nosuid,nodev,relatime - tmpfs tmpfs rw
244 238 254:0 /x /run/plugin rw,relatime - ext4 /dev/vda rw
258 239 0:88 / /sys/fs/cgroup rw,nosuid - tmpfs cgroup rw,size=1024k
"""


@pytest.mark.parametrize(("effective", "bounding", "seen"), [(0, 0, 0), (0, 0x400, 0x400), (1, 0, 1)])
def test_capabilities_and_folders_are_seen_from_inside(effective: int, bounding: int, seen: int) -> None:
    output = STATUS.format(effective, bounding) + MOUNTS
    assert podman.seen_inside(output) == (seen, ("/tmp", "/var/tmp"))


@pytest.mark.parametrize("output", ["", "cat: not found", "CapEff:\nnonsense - tmpfs x"])
def test_what_is_not_seen_is_not_taken_for_nothing(output: str) -> None:
    assert podman.seen_inside(output) == (None, ())


def test_an_image_has_the_name_that_it_was_given() -> None:
    names = [
        f"{INDEX_NAME}/library/python:3",
        f"{INDEX_NAME}/a/b:1",
        "localhost/a/c:1",
        "registry.example/a/d:1",
        "a/e:1",
    ]
    assert answers.image({"Id": "x", "RepoTags": names}).tags == (
        "python:3",
        "a/b:1",
        "a/c:1",
        "registry.example/a/d:1",
        "a/e:1",
    )


def listing(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"Id": name, "Names": [f"/{name}"], "Name": name, "Labels": labels, "State": "running", "RepoTags": [name]}


OTHERS = [listing(f"other{number}", labels) for number, labels in enumerate(LOOKALIKES)]


async def test_no_list_has_what_lacks_one_of_the_labels(service: FakeDockerd, engine: DockerEngine) -> None:
    """Whatever the engine's filters let pass."""
    service.answers["GET", "/containers/json"] = service.answers["GET", "/images/json"] = [
        *OTHERS,
        listing("our", OURS),
    ]
    service.answers["GET", "/volumes"] = {"Volumes": [*OTHERS, listing("our", OURS)]}
    assert [found.name for found in await engine.list(OURS)] == ["our"]
    assert [found.id for found in await engine.images(OURS)] == ["our"]
    assert [found.name for found in await engine.volumes(OURS)] == ["our"]


async def test_no_event_is_of_a_container_that_lacks_one_of_the_labels(
    service: FakeDockerd, engine: DockerEngine
) -> None:
    def event(name: str, action: str, labels: dict[str, str]) -> bytes:
        attributes = {"name": name, "image": "x", "exitCode": "0", **labels}
        return json.dumps(
            {"Type": "container", "Action": action, "Actor": {"ID": name, "Attributes": attributes}}
        ).encode()

    lines = [event("other", "die", labels) for labels in LOOKALIKES]
    lines += [event("our", "die", OURS), event("our", "remove", OURS)]
    service.answers["GET", "/events"] = streamed(b"\n".join(lines) + b"\n")
    async with engine.events(OURS) as events:
        assert [(event.container_id, event.action) async for event in events] == [("our", "die"), ("our", "destroy")]


async def test_a_sweep_leaves_what_is_not_a_gateway_of_ours(service: FakeDockerd, engine: DockerEngine) -> None:
    prefixed = {f"gateway.{name}": value for name, value in OURS.items()}
    mark = {"plugin-orchestrator.gateway-of": "our"}
    planted = {
        "our-gateway": {**prefixed, **mark},
        "unmarked-gateway": prefixed,
        "half-gateway": {**mark, "gateway.plugin": "reader"},
        "plain-gateway": {},
    }
    entries = [listing(name, labels) for name, labels in planted.items()]
    removed: list[str] = []

    async def remove(request: web.Request) -> web.Response:
        removed.append(request.path.rpartition("/")[2])
        return web.Response(status=204)

    service.answers["GET", "/containers/json"] = entries
    # Of other software, by the name of a gateway of ours.
    service.answers["GET", "/volumes"] = {"Volumes": [listing("our-gateway", {})]}
    service.answers["GET", "/volumes/our-gateway"] = listing("our-gateway", {})
    for name, labels in planted.items():
        service.answers["GET", f"/containers/{name}/json"] = {"Id": name, "Config": {"Labels": labels}}
        service.answers["DELETE", f"/containers/{name}"] = remove
    service.answers["DELETE", "/volumes/our-gateway"] = remove
    service.answers["GET", "/networks/plugin-orchestrator"] = {"Labels": {}}
    service.answers["DELETE", "/networks/plugin-orchestrator"] = remove
    await engine.sweep(OURS)
    assert removed == ["our-gateway"]


@pytest.mark.parametrize(
    ("status", "state", "refused"),
    [
        (500, "exited", False),
        (409, "exited", False),
        (500, "created", False),
        (500, "running", True),
        (409, "paused", True),
    ],
)
async def test_a_refused_kill_is_followed_by_a_look(
    service: FakeDockerd, engine: DockerEngine, status: int, state: str, refused: bool
) -> None:
    """Never by the words: every engine has others."""
    service.answers["POST", "/containers/5f/kill"] = (status, NOT_RUNNING)
    service.answers["GET", "/containers/5f/json"] = {
        "Id": "5f",
        "State": {"Status": state, "Running": state != "exited"},
    }
    if refused:
        with pytest.raises(EngineRefusedError):
            await engine.kill("5f")
    else:
        await engine.kill("5f")


async def test_a_missing_mount_source_is_refused_before_anything_is_created(
    service: FakeDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    mounts = (BindMount(tmp_path, "/there"), BindMount(tmp_path / "missing", "/models/m"))
    with pytest.raises(EngineRefusedError, match=r"/models/m does not exist") as refused:
        await engine.create(spec(mounts=mounts))
    assert str(tmp_path) not in str(refused.value)
    assert not [path for path in service.requested if path.endswith("/create")]


async def test_a_volume_of_somebody_else_is_not_used(service: FakeDockerd, engine: DockerEngine) -> None:
    service.answers["POST", "/volumes/create"] = listing("cache-1", {"deployment": "1"})
    with pytest.raises(EngineRefusedError, match="cache-1 exists and is not this orchestrator's"):
        await engine.create(spec(volumes=(Volume("/cache", "cache-1", OURS),)))


async def test_a_volume_from_before_the_operators_labels_were_changed_is_used(service: FakeDockerd) -> None:
    """ORCHESTRATOR_CONTAINER_LABELS are put on what is made from then on."""
    service.answers["POST", "/volumes/create"] = listing("cache-1", OURS)
    service.answers["POST", "/containers/create"] = {"Id": "5f"}
    engine = DockerEngine(service.environment, bounds=Bounds(query=1), labels={"team": "vision"})
    try:
        assert await engine.create(spec(volumes=(Volume("/cache", "cache-1", OURS),))) == "5f"
    finally:
        await engine.close()


async def test_the_trial_of_quotas_removes_no_volume_of_somebody_else(
    service: FakeDockerd, engine: DockerEngine
) -> None:
    """An engine that is to create a volume of a name in use answers with the one that is there."""
    service.answers["POST", "/volumes/create"] = listing("plugin-orchestrator-quota-trial", {})
    assert not await engine.holds_volumes_to_size()
    assert not [path for path in service.requested if path.endswith("/volumes/plugin-orchestrator-quota-trial")]


def framed(*lines: str) -> bytes:
    """As Podman stores them: of a line that was written in two pieces, the second has a time too."""
    pieces = [f"2026-11-27T23:33:31Z {line}".encode() for line in lines]
    return b"".join(b"\1\0\0\0" + len(piece).to_bytes(4, "big") + piece for piece in pieces)


@pytest.mark.parametrize("service", [info()], indirect=True)
async def test_a_silent_container_is_followed_until_it_prints(service: FakeDockerd, engine: DockerEngine) -> None:
    """Podman 4 sends no header before the first line."""
    followed: list[str] = []

    async def logs(request: web.Request) -> web.StreamResponse:
        if "follow" not in request.query:
            return await streamed()(request)
        followed.append(request.query["tail"])
        if len(followed) == 1:
            time.sleep(1.2)  # the event loop is held up for longer than the engine may take
        if len(followed) < 3:
            await asyncio.sleep(60)
        return await streamed(framed("up\n"))(request)

    service.answers["GET", "/containers/5f/json"] = {"Id": "5f", "State": {"Status": "running", "Running": True}}
    service.answers["GET", "/containers/5f/logs"] = logs
    async with engine.follow_logs("5f", tail=0) as lines:
        assert [each async for each in lines] == ["2026-11-27T23:33:31Z up"]
    # What was printed between two attempts is not lost.
    assert followed == ["all", "all", "all"]


@pytest.mark.parametrize("service", [info()], indirect=True)
@pytest.mark.parametrize(("tail", "last"), [(0, []), (1, ["two"]), (2, ["one", "two"]), (9, ["one", "two"])])
async def test_the_last_lines_are_selected_here(
    service: FakeDockerd, engine: DockerEngine, tail: int, last: list[str]
) -> None:
    """Podman's own selection gives of a line that came in pieces the last one, which is empty."""

    async def logs(request: web.Request) -> web.StreamResponse:
        assert request.query["tail"] == "all"
        later = ["three\n"] if "follow" in request.query else []
        return await streamed(framed("one\n", "two", "\n", *later))(request)

    service.answers["GET", "/containers/5f/json"] = {"Id": "5f", "State": {"Status": "running", "Running": True}}
    service.answers["GET", "/containers/5f/logs"] = logs
    assert [line.split(" ")[1] for line in (await engine.logs("5f", tail=tail)).splitlines()] == last
    async with engine.follow_logs("5f", tail=tail) as lines:
        assert [line.split(" ")[1] async for line in lines] == [*last, "three"]


async def test_the_log_of_an_unknown_container_is_an_error_at_once(service: FakeDockerd, engine: DockerEngine) -> None:
    service.answers["GET", "/containers/5f/json"] = service.answers["GET", "/containers/5f/logs"] = (404, "no such")
    with pytest.raises(NotFoundError):
        async with engine.follow_logs("5f", tail=0):
            pass


@pytest.mark.parametrize("service", [info()], indirect=True)
async def test_podman_is_not_asked_for_its_version_by_every_thread(service: FakeDockerd, engine: DockerEngine) -> None:
    """It runs a dozen programs to answer that, and as many to answer /info."""
    service.answers["GET", "/containers/5f/logs"] = streamed(framed("up\n"))
    service.answers["GET", "/containers/json"] = []
    await asyncio.gather(*(engine.list(OURS) for _ in range(8)), *(engine.logs("5f", tail=1) for _ in range(8)))
    assert not [path for path in service.requested if path.endswith(("/version", "/info"))]


def test_an_engine_of_unknown_form_is_docker() -> None:
    known = engine_info(None)
    assert known == replace(known, product="Docker")
    assert isinstance(known, EngineInfo)


@pytest.mark.parametrize(
    "refusal",
    [
        (500, "can only create exec sessions on running containers: container state improper"),
        (409, "can only create exec sessions on running containers: container state improper"),
        (404, "no such container"),
    ],
)
async def test_a_container_that_cannot_be_looked_into_is_judged_by_what_podman_says(
    service: FakeDockerd, engine: DockerEngine, refusal: tuple[int, str]
) -> None:
    """It has not started, or has ended."""
    service.answers["GET", "/containers/c/json"] = {"Id": "c", "HostConfig": {"Memory": 5}, "Config": {"User": "1"}}
    service.answers["POST", "/containers/c/exec"] = refusal
    service.answers["GET", "/libpod/containers/c/json"] = {}
    found = await engine.isolation("c")
    assert (found.memory, found.user, found.capabilities) == (5, "1", None)


async def test_a_container_that_is_removed_while_it_is_asked_about_is_not_found(
    service: FakeDockerd, engine: DockerEngine
) -> None:
    """Podman 4.3 has lost it between two looks of its own, and answers with 500."""
    service.answers["GET", "/containers/5f/json"] = 500, "container 5f does not exist in database: no such container"
    with pytest.raises(NotFoundError):
        await engine.inspect("5f")
    service.answers["GET", "/containers/5f/json"] = 500, "no such container to share a network with: 6a"
    with pytest.raises(EngineRefusedError):
        await engine.inspect("5f")
