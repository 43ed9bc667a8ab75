"""The contract of every container engine. Runs over Docker and over the memory engine."""

import asyncio
import secrets
import time
from datetime import UTC, datetime, timedelta

import pytest
from support.waiting import PATIENCE

from orchestrator.containers.endpoint import UnixEndpoint
from orchestrator.containers.spec import BindMount, DeviceGrant, Volume
from orchestrator.errors import BuildError, DeviceRequestError, EngineRefusedError, NotFoundError

NO_SUCH = "f" * 64


async def test_a_created_container_waits_to_be_started(kit):
    container = await kit.engine.create(kit.spec())
    status = await kit.engine.inspect(container)
    assert (status.state, status.exit_code, status.started_at) == ("created", None, None)
    assert status.id == container


async def test_a_started_container_runs_until_it_is_stopped(kit):
    before = datetime.now(UTC) - timedelta(seconds=2)
    container = await kit.started()
    status = await kit.engine.inspect(container)
    assert status.state == "running"
    assert status.exit_code is None
    assert before < status.started_at < datetime.now(UTC) + timedelta(seconds=2)
    assert status.health == "none"
    assert status.labels.items() >= kit.labels.items()


async def test_a_start_of_what_runs_is_no_error(kit):
    container = await kit.started()
    await kit.engine.start(container)
    assert (await kit.engine.inspect(container)).state == "running"


async def test_a_container_that_exits_by_itself_has_its_exit_code(kit):
    container = await kit.started("fail")
    await kit.ended(container)
    status = await kit.engine.inspect(container)
    assert (status.exit_code, status.oom_killed) == (3, False)
    # An engine may note the start of a process that exits at once a moment after its end (Docker 20.10: 3.5 ms seen).
    assert status.finished_at >= status.started_at - timedelta(seconds=1)


async def test_stop_lets_the_process_exit_by_itself(kit):
    container = await kit.started("wait")
    started = time.monotonic()
    await kit.engine.stop(container, grace=10 * PATIENCE)
    assert time.monotonic() - started < 8 * PATIENCE
    assert (await kit.engine.inspect(container)).exit_code == 0


async def test_stop_kills_what_ignores_it_after_the_grace(kit):
    container = await kit.started("deaf")
    started = time.monotonic()
    await kit.engine.stop(container, grace=1)
    assert 0.9 < time.monotonic() - started < 8 * PATIENCE
    status = await kit.engine.inspect(container)
    assert (status.state, status.exit_code, status.oom_killed) == ("exited", 137, False)


async def test_kill_needs_no_consent(kit):
    container = await kit.started("deaf")
    await kit.engine.kill(container)
    await kit.ended(container)
    assert (await kit.engine.inspect(container)).exit_code == 137


async def test_stopping_and_killing_an_ended_container_is_no_error(kit):
    container = await kit.started("fail")
    await kit.ended(container)
    await kit.engine.stop(container, grace=1)
    await kit.engine.kill(container)
    assert (await kit.engine.inspect(container)).exit_code == 3


async def test_stopping_and_killing_a_container_that_was_never_started_is_no_error(kit):
    container = await kit.engine.create(kit.spec())
    await kit.engine.stop(container, grace=1)
    await kit.engine.kill(container)


async def test_an_engine_that_can_do_all_of_it_warns_of_nothing(kit):
    said = []
    container = await kit.engine.create(kit.spec(), on_warning=said.append)
    held = await kit.engine.isolation(container)
    discarded = held.memory is None or held.pids is None
    assert discarded or not [text for text in said if "discarded" in text.lower()]


async def test_a_running_container_can_be_removed_by_many_at_once(kit):
    container = await kit.started("deaf")
    await asyncio.gather(*(kit.engine.remove(container) for _ in range(4)))
    with pytest.raises(NotFoundError):
        await kit.engine.inspect(container)
    await kit.engine.remove(container)


@pytest.mark.parametrize("call", ["start", "inspect", "kill"])
async def test_an_unknown_container_is_not_found(kit, call):
    with pytest.raises(NotFoundError):
        await getattr(kit.engine, call)(NO_SUCH)


async def test_an_unknown_container_has_no_logs_and_cannot_be_stopped(kit):
    with pytest.raises(NotFoundError):
        await kit.engine.stop(NO_SUCH, grace=1)
    with pytest.raises(NotFoundError):
        await kit.engine.logs(NO_SUCH, tail=5)
    with pytest.raises(NotFoundError):
        async with kit.engine.follow_logs(NO_SUCH, tail=5):
            pass


async def test_a_list_holds_the_containers_with_these_labels_in_any_state(kit):
    running = await kit.started()
    ended = await kit.started("fail")
    await kit.ended(ended)
    created = await kit.engine.create(kit.spec(labels={**kit.labels, "more": "yes"}))
    found = {status.id: status for status in await kit.engine.list(kit.labels)}
    assert {id_: status.state for id_, status in found.items()} == {
        running: "running",
        ended: "exited",
        created: "created",
    }
    assert found[ended].exit_code == 3
    assert found[running].name.startswith("test-")
    assert found[running].oom_killed is None
    assert [status.id for status in await kit.engine.list({**kit.labels, "more": "yes"})] == [created]
    assert await kit.engine.list({**kit.labels, "more": "no"}) == []


async def test_a_name_can_be_used_once(kit):
    spec = kit.spec()
    await kit.engine.create(spec)
    with pytest.raises(EngineRefusedError, match="already in use"):
        await kit.engine.create(spec)


async def test_an_unknown_image_is_not_found(kit):
    with pytest.raises(NotFoundError):
        await kit.engine.image("no-such-image:1")
    with pytest.raises(NotFoundError):
        await kit.engine.create(kit.spec(image="no-such-image:1"))


async def test_a_mount_whose_source_is_missing_is_refused(kit):
    with pytest.raises(EngineRefusedError, match="does not exist"):
        await kit.engine.create(kit.spec(mounts=(BindMount(kit.folder / "missing", "/data"),)))
    assert not (kit.folder / "missing").exists()


@pytest.mark.parametrize("driver", ["nvidia", "cdi"])
async def test_devices_that_cannot_be_provided_fail_the_start_and_leave_the_container(kit, driver):
    info = await kit.engine.info()
    if driver in info.gpu_drivers:
        pytest.skip(f"this engine serves {driver}")
    if info.product == "Podman":  # it would start it without
        with pytest.raises(DeviceRequestError, match=driver):
            await kit.engine.create(kit.spec(devices=DeviceGrant(driver, ("GPU-1",))))
        assert await kit.engine.list(kit.labels) == []
        return
    container = await kit.engine.create(kit.spec(devices=DeviceGrant(driver, ("GPU-1",))))
    with pytest.raises(DeviceRequestError, match=driver):
        await kit.engine.start(container)
    assert (await kit.engine.inspect(container)).state == "created"
    await kit.engine.remove(container)


async def test_a_build_makes_a_labelled_image_and_passes_its_output_on(kit):
    word = secrets.token_hex(4)  # a step that this engine has made before gives no output
    (kit.folder / "Dockerfile").write_text(f"FROM {kit.image}\nARG WORD\nRUN echo building with $WORD\nENV A=b\n")
    if hasattr(kit.engine, "image_store"):
        kit.engine.image_store.build_output = [f"building with {word}"]
    output = []
    tag = f"plugin-orchestrator/test:{kit.labels['plugin-orchestrator.test'][:12]}"
    image = await kit.engine.build(
        kit.folder, tag=tag, labels=kit.labels, build_args={"WORD": word}, on_output=output.append
    )
    assert f"building with {word}" in output
    assert tag in image.tags
    assert image.labels.items() >= kit.labels.items()
    assert abs(datetime.now(UTC) - image.created) < timedelta(minutes=5)
    assert await kit.engine.image(tag) == await kit.engine.image(image.id) == image
    assert [found.id for found in await kit.engine.images(kit.labels)] == [image.id]

    container = await kit.started("fail", image=tag)
    await kit.ended(container)
    assert (await kit.engine.inspect(container)).image_id == image.id
    with pytest.raises(EngineRefusedError):
        await kit.engine.remove_image(tag)
    await kit.engine.remove(container)
    await kit.engine.remove_image(tag)
    with pytest.raises(NotFoundError):
        await kit.engine.image(tag)


async def test_an_image_can_get_another_name(kit):
    """The name is taken from the image that had it."""
    (kit.folder / "Dockerfile").write_text(f"FROM {kit.image}\n")
    names = [f"plugin-orchestrator/test:{secrets.token_hex(4)}" for _ in range(3)]
    images = [
        await kit.engine.build(
            kit.folder, tag=name, labels={**kit.labels, "n": name}, build_args={}, on_output=lambda _: None
        )
        for name in names[:2]
    ]
    for image in images:
        await kit.engine.tag_image(image.id, names[2])
        assert (await kit.engine.image(names[2])).id == image.id
    assert names[2] not in (await kit.engine.image(names[0])).tags
    for name in (names[2], *names[:2]):
        await kit.engine.remove_image(name)
    with pytest.raises(NotFoundError):
        await kit.engine.tag_image(names[0], names[2])


async def test_a_build_that_fails_shows_its_last_lines(kit):
    (kit.folder / "Dockerfile").write_text(f"FROM {kit.image}\nRUN echo the reason >&2; exit 4\n")
    if hasattr(kit.engine, "image_store"):
        kit.engine.image_store.build_output = [f"step {i}" for i in range(100)] + ["the reason"]
        kit.engine.image_store.build_error = "returned a non-zero code: 4"
    output = []
    with pytest.raises(BuildError, match=r"(non-zero code:|exit status) 4") as failure:
        await kit.engine.build(
            kit.folder, tag="plugin-orchestrator/test:no", labels=kit.labels, build_args={}, on_output=output.append
        )
    assert "the reason" in failure.value.tail
    assert len(failure.value.tail.splitlines()) <= 30
    with pytest.raises(NotFoundError):
        await kit.engine.image("plugin-orchestrator/test:no")


async def test_the_engine_reports_what_it_is(kit):
    await kit.engine.ping()
    info = await kit.engine.info()
    assert info.version
    assert info.cgroup_version in {"1", "2"}
    assert set(info.gpu_drivers) <= {"nvidia", "cdi"}


async def test_an_endpoint_lies_in_the_run_folder(kit):
    endpoint = await kit.engine.endpoint(NO_SUCH, kit.folder)
    assert isinstance(endpoint, UnixEndpoint)
    assert {endpoint.control.parent, endpoint.tools.parent, endpoint.notify.parent} == {kit.folder}


async def test_the_isolation_that_it_reports_is_the_requested_one(kit):
    mount = BindMount(kit.folder, "/data")
    container = await kit.started(cpus=0.5, mounts=(mount,), tmpfs={"/tmp": "rw,size=1m"})
    isolation = await kit.engine.isolation(container)
    assert (isolation.user, isolation.network, isolation.restarts) == ("65532:65532", "none", "no")
    assert (isolation.read_only, isolation.privileged, isolation.bounded_logs) == (True, False, True)
    if (await kit.engine.info()).product == "Podman":
        assert (isolation.capabilities, isolation.writable) == (0, ("/tmp",))
    else:
        assert isolation.capabilities_dropped == ("ALL",)
    assert isolation.capabilities_added == ()
    assert isolation.security_options == ("no-new-privileges",)
    assert (isolation.memory, isolation.memory_and_swap, isolation.pids, isolation.cpus) == (
        64 * 1024**2,
        64 * 1024**2,
        32,
        0.5,
    )
    assert isolation.mounts == (mount,)
    with pytest.raises(NotFoundError):
        await kit.engine.isolation(NO_SUCH)


async def test_a_named_volume_outlives_its_containers_and_is_not_removed_under_them(kit):
    name = f"test-{kit.labels['plugin-orchestrator.test'][:12]}"
    volume = Volume("/cache", name, kit.labels)
    first = await kit.started(volumes=(volume,))
    with pytest.raises(EngineRefusedError):
        await kit.engine.remove_volume(name)
    await kit.engine.remove(first)
    (found,) = await kit.engine.volumes(kit.labels)
    assert (found.name, dict(found.labels)) == (name, kit.labels)
    second = await kit.started(volumes=(volume,))
    assert [volume.name for volume in await kit.engine.volumes(kit.labels)] == [name]
    await kit.engine.remove(second)
    await kit.engine.remove_volume(name)
    assert await kit.engine.volumes(kit.labels) == ()
    with pytest.raises(NotFoundError):
        await kit.engine.remove_volume(name)


async def test_whether_volumes_are_held_to_a_size_is_found_by_trying(kit):
    """The answer is the same each time, and nothing of the trial stays."""
    assert await kit.engine.holds_volumes_to_size() is await kit.engine.holds_volumes_to_size()


async def test_the_processes_of_a_container_are_numbered_as_on_the_host(kit):
    container, other = await kit.started(), await kit.started()
    processes = await kit.engine.processes(container)
    assert len(processes) >= 1
    assert all(isinstance(number, int) and number > 1 for number in processes)  # inside, the first would be 1
    assert processes.isdisjoint(await kit.engine.processes(other))


async def test_a_container_that_does_not_run_has_no_processes(kit):
    container = await kit.engine.create(kit.spec())
    assert await kit.engine.processes(container) == frozenset()
    ended = await kit.started("fail")
    await kit.ended(ended)
    assert await kit.engine.processes(ended) == frozenset()


async def test_the_processes_of_an_unknown_container_are_not_found(kit):
    with pytest.raises(NotFoundError):
        await kit.engine.processes(NO_SUCH)
