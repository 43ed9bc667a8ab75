"""Docker Engine unreachable, frozen, or answering nonsense: what its callers see. Needs no Docker."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from support.waiting import eventually

from orchestrator.containers.docker_engine import DockerEngine
from orchestrator.containers.spec import ContainerSpec
from orchestrator.errors import (
    BuildError,
    DeviceRequestError,
    EngineAddressError,
    EngineRefusedError,
    EngineUnreachableError,
    NotFoundError,
)

from .fake_dockerd import TEST_BOUNDS, FakeDockerd, engine_threads, streamed


@pytest.fixture
async def engine(dockerd: FakeDockerd) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(dockerd.environment, bounds=TEST_BOUNDS)
    yield engine
    await engine.close()


async def test_a_missing_engine_fails_the_calls_and_not_the_constructor(tmp_path):
    engine = DockerEngine({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    with pytest.raises(EngineUnreachableError, match="No such file"):
        await engine.info()
    with pytest.raises(EngineUnreachableError):
        async with engine.events({}):
            pass
    await engine.close()


@pytest.mark.parametrize("host", ["nonsense://x", "tcp://127.0.0.1:1", "unix:///dev/null"])
async def test_a_wrong_address_is_an_unreachable_engine(host):
    engine = DockerEngine({"DOCKER_HOST": host}, bounds=TEST_BOUNDS)
    with pytest.raises(EngineUnreachableError):
        await engine.info()
    await engine.close()


async def test_tls_settings_that_cannot_be_used_are_named(tmp_path):
    engine = DockerEngine({"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CERT_PATH": str(tmp_path / "none")})
    with pytest.raises(EngineAddressError, match=r"DOCKER_HOST cannot be used: .*(certificate|TLS)"):
        await engine.info()
    await engine.close()


async def test_calls_stuck_in_a_frozen_engine_do_not_block_other_classes(dockerd):
    async def never(_):
        await asyncio.sleep(60)

    engine = DockerEngine(dockerd.environment, bounds=replace(TEST_BOUNDS, query=2, end=2))
    dockerd.answers["GET", "/containers/json"] = never
    dockerd.answers["POST", "/containers/x/kill"] = {}
    stuck = [asyncio.create_task(engine.list({})) for _ in range(20)]
    await asyncio.sleep(0.05)
    await engine.kill("x")
    assert not any(call.done() for call in stuck)
    await asyncio.gather(*stuck, return_exceptions=True)
    await engine.close()


async def test_an_engine_that_comes_back_is_used_again(dockerd, engine):
    assert (await engine.info()).version == "fake"
    await dockerd.stop()
    with pytest.raises(EngineUnreachableError):
        await engine.info()
    dockerd.version["ApiVersion"] = "1.44"
    await dockerd.start()
    assert (await engine.info()).version == "fake"
    assert dockerd.requested[-1] == "/v1.44/info"


async def test_an_engine_that_restarted_between_two_calls_is_not_noticed(dockerd, engine):
    await engine.info()
    await dockerd.stop()
    await dockerd.start()
    assert (await engine.info()).version == "fake"


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (404, "No such container: x", NotFoundError),
        (409, "container x is marked for removal and cannot be started", EngineRefusedError),
        (500, 'could not select device driver "nvidia" with capabilities: [[gpu]]', DeviceRequestError),
        (500, "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1", DeviceRequestError),
        (500, "nvidia-container-cli: device error: GPU-1: unknown device: unknown", DeviceRequestError),
        (500, "insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar", DeviceRequestError),
        (400, "unknown or invalid runtime name: nvidia", DeviceRequestError),
        (500, "OCI runtime create failed: exec: no such file", EngineRefusedError),
        (400, "client version 1.40 is too old", EngineRefusedError),
    ],
)
async def test_a_refusal_has_the_engines_message(dockerd, engine, status, message, error):
    dockerd.answers["POST", "/containers/x/start"] = (status, message)
    with pytest.raises(error) as raised:
        await engine.start("x")
    assert str(raised.value) == message
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/containers/create", 'invalid mount config for type "bind": bind source path does not exist: /run/user/1/x'),
        ("/containers/create", "Mounts denied: \nThe path /run/user/1/x is not shared from the host"),
    ],
)
async def test_a_folder_that_the_engine_does_not_see_is_no_riddle(dockerd, engine, path, message):
    """Docker Desktop shares /home alone. The path is the host's, and no caller's business."""
    dockerd.answers["POST", path] = (400, message)
    spec = ContainerSpec(name="x", image="y", labels={}, environment={}, memory=1, pids=1)
    with pytest.raises(EngineRefusedError, match=r"not shared with it.*ORCHESTRATOR_RUN_DIR") as refused:
        await engine.create(spec)
    assert "/run/user" not in str(refused.value)


@pytest.mark.parametrize("nonsense", [None, [], "text", 7, {"State": 4, "Config": []}, {"State": {"Status": {}}}])
async def test_nonsense_of_a_container_is_no_crash(dockerd, engine, nonsense):
    dockerd.answers["GET", "/containers/x/json"] = nonsense
    status = await engine.inspect("x")
    assert (status.state, status.exit_code, status.labels) == ("exited", None, {})


async def test_an_answer_that_is_no_json_is_refused(dockerd, engine):
    dockerd.answers["GET", "/containers/x/json"] = streamed(b"<html>")
    with pytest.raises(EngineRefusedError, match="could not be read"):
        await engine.inspect("x")


async def test_an_answer_without_an_id_makes_no_container(dockerd, engine):
    dockerd.answers["POST", "/containers/create"] = {"Warnings": []}
    spec = ContainerSpec(name="x", image="y", labels={}, environment={}, memory=1, pids=1)
    with pytest.raises(EngineRefusedError, match="could not be read"):
        await engine.create(spec)


@pytest.mark.parametrize(
    ("warnings", "said"),
    [
        (["Your kernel does not support memory limit capabilities. Limitation discarded.", "another"], 2),
        ([], 0),
        (None, 0),
        ("nonsense", 0),
        ([7, None], 0),
    ],
)
async def test_what_an_engine_warns_of_at_a_creation_is_passed_on(dockerd, engine, warnings, said):
    dockerd.answers["POST", "/containers/create"] = {"Id": "c1", "Warnings": warnings}
    spec = ContainerSpec(name="x", image="y", labels={}, environment={}, memory=1, pids=1)
    found = []
    assert await engine.create(spec, on_warning=found.append) == "c1"
    assert len(found) == said


async def test_an_engine_timeout_bounds_what_takes_longer_too(dockerd):
    engine = DockerEngine.from_environment(dockerd.environment, timeout=90)
    assert (engine._bounds.query, engine._bounds.change, engine._bounds.end) == (90, 90, 90)
    engine = DockerEngine.from_environment(dockerd.environment, timeout=2)
    assert (engine._bounds.query, engine._bounds.change, engine._bounds.end) == (2, 60, 25)


async def test_garbage_among_events_is_skipped(dockerd, engine):
    die = b'{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"exitCode":"3","a":"b"}},"time":1}\n'
    garbage = [
        b"\xff\xfe\n",
        b"null\n[]\n7\n",
        b'{"Type":"network","Action":"connect","Actor":{"ID":"n"}}\n',
        b'{"Type":"container","Action":"exec_start: x","Actor":{"ID":"c1"}}\n',
        b'{"Type":"container","Action":["die"],"Actor":"c1"}\n',
        b"[" * 100_000 + b"\n",
        b'{"broken',
        b"}\n",
        die[:30],
        die[30:],
        b'{"status":"oom","id":"c1","timeNano":99999999999999999999999}\n',
        b'{"unfinished',
    ]
    dockerd.answers["GET", "/events"] = streamed(*garbage)
    async with engine.events({}) as events:
        seen = [event async for event in events]
    assert [(event.action, event.container_id, event.exit_code) for event in seen] == [
        ("die", "c1", 3),
        ("oom", "c1", None),
    ]
    assert seen[0].labels == {"a": "b"}


async def test_events_that_break_off_mean_an_unreachable_engine(dockerd, engine):
    dockerd.answers["GET", "/events"] = streamed(
        b'{"Action":"die","Actor":{"ID":"c1"}}\n', then=lambda: asyncio.sleep(60)
    )
    async with engine.events({}) as events:
        assert (await anext(events)).action == "die"
        await dockerd.stop()
        with pytest.raises(EngineUnreachableError):
            await anext(events)


async def test_silent_events_outlive_the_bound_and_are_left_at_once(dockerd, engine):
    dockerd.answers["GET", "/events"] = streamed(
        b'{"Action":"start","Actor":{"ID":"c1"}}\n', then=lambda: asyncio.sleep(60)
    )
    async with engine.events({}) as events:
        assert (await anext(events)).action == "start"
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(3 * TEST_BOUNDS.query)
        assert not waiting.done()
        waiting.cancel()
        left = time.monotonic()
    assert time.monotonic() - left < 5  # not the 60 s of its silence

    async def no_stream() -> bool:
        return "engine-stream" not in engine_threads()

    await eventually(no_stream, within=2)


async def test_a_reader_that_is_slow_makes_the_engine_wait(dockerd, engine):
    """Data that arrives faster than it is read must not pile up in memory."""
    sent = 0

    async def flood(request):
        nonlocal sent
        from aiohttp import web

        response = web.StreamResponse()
        await response.prepare(request)
        line = b'{"Action":"start","Actor":{"ID":"c1"},"x":"' + b"x" * 60_000 + b'"}\n'
        while True:
            await response.write(line)
            sent += 1

    dockerd.answers["GET", "/events"] = flood
    async with engine.events({}) as events:
        await anext(events)
        await asyncio.sleep(0.5)
        first = sent
        await asyncio.sleep(0.5)
        assert sent == first < 1000


async def test_a_build_that_falls_silent_is_given_up(dockerd, engine, tmp_path):
    dockerd.answers["POST", "/build"] = streamed(b'{"stream":"Step 1\\n"}\n', then=lambda: asyncio.sleep(60))
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    output = []
    with pytest.raises((EngineUnreachableError, BuildError)):
        await engine.build(tmp_path, tag="a:b", labels={}, build_args={}, on_output=output.append)
    assert output == ["Step 1"]


async def test_a_build_that_is_refused_is_a_failed_build(dockerd, engine, tmp_path):
    dockerd.answers["POST", "/build"] = (400, "dockerfile parse error line 1: unknown instruction: FORM")
    (tmp_path / "Dockerfile").write_text("FORM x\n")
    with pytest.raises(BuildError, match="unknown instruction"):
        await engine.build(tmp_path, tag="a:b", labels={}, build_args={}, on_output=print)


async def test_a_pull_that_fails_half_way_is_an_error(dockerd, engine):
    dockerd.answers["POST", "/images/create"] = streamed(
        b'{"status":"Pulling"}\r\n', b'{"error":"manifest for a:b not found: manifest unknown"}\r\n'
    )
    with pytest.raises(NotFoundError, match="manifest unknown"):
        await engine.pull("a:b")


async def test_a_removal_in_progress_is_waited_for(dockerd, engine):
    answers = iter([(409, "removal of container x is already in progress")] * 2 + [(404, "No such container: x")])

    async def remove(_):
        from aiohttp import web

        status, message = next(answers)
        return web.json_response({"message": message}, status=status)

    dockerd.answers["DELETE", "/containers/x"] = remove
    await engine.remove("x")
    assert next(answers, None) is None
