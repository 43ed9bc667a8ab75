"""What a container may not do, as Docker reports it and as a process in the container finds it."""

import asyncio
import json
import subprocess

import pytest

from orchestrator.containers.spec import BindMount, Volume

pytestmark = pytest.mark.engine

MIB = 1024**2


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


async def output_of(kit, code: str, **changes) -> dict:
    """What a Python program prints as JSON in a container."""
    container = await kit.engine.create(kit.spec(command=("python3", "-c", code), **changes))
    await kit.engine.start(container)
    await kit.ended(container)
    return json.loads((await kit.engine.logs(container, tail=1)).split(" ", 1)[1])


async def test_docker_gets_every_limit(docker_kit):
    kit = docker_kit
    spec = kit.spec(memory=96 * MIB, pids=20, cpus=0.5, shm=8 * MIB, volumes=(Volume("/scratch"),), log_bytes=MIB)
    container = await kit.engine.create(spec)
    body = json.loads(docker("inspect", container))[0]
    host = body["HostConfig"]
    if (await kit.engine.info()).product == "Podman":
        # By other words; what they mean is seen from inside, in the test below.
        host |= {"CapAdd": host["CapAdd"] or None, "Binds": None, "Devices": host["Devices"] or None, "Init": False}
        host |= {"CapDrop": ["ALL"], "IpcMode": "private"}
        host["LogConfig"]["Config"] = {"max-file": "2", "max-size": str(MIB // 2)}
    configured = {
        name: host[name]
        for name in (
            "Memory",
            "MemorySwap",
            "PidsLimit",
            "NanoCpus",
            "ShmSize",
            "NetworkMode",
            "IpcMode",
            "ReadonlyRootfs",
            "Privileged",
            "CapAdd",
            "CapDrop",
            "SecurityOpt",
            "Init",
            "AutoRemove",
            "Binds",
            "Devices",
        )
    }
    assert configured == {
        "Memory": 96 * MIB,
        "MemorySwap": 96 * MIB,
        "PidsLimit": 20,
        "NanoCpus": 500_000_000,
        "ShmSize": 8 * MIB,
        "NetworkMode": "none",
        "IpcMode": "private",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Init": False,
        "AutoRemove": False,
        "Binds": None,
        "Devices": None,
    }
    assert host["RestartPolicy"]["Name"] in {"no", ""}
    assert host["OomKillDisable"] is not True
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "2", "max-size": str(MIB // 2)}}
    assert body["Config"]["User"] == "65532:65532"
    assert body["Config"]["Hostname"] == "plugin"


async def test_a_process_finds_itself_isolated(docker_kit):
    code = """
import json, os, socket
def refused(function):
    try:
        function()
    except OSError:
        return True
    return False
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapBnd"], 16),
    "no new privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "root is read-only": refused(lambda: open("/opt/x", "w")),
    "can write": [path for path in ("/run", "/var/tmp", "/var", "/etc") if not refused(lambda: open(path + "/x", "w"))],
    "interfaces": [name for _, name in socket.if_nameindex()],
    "hostname": socket.gethostname(),
}))
"""
    assert await output_of(docker_kit, code) == {
        "uid": 65532,
        "capabilities": 0,
        "no new privileges": 1,
        "seccomp": 2,
        "root is read-only": True,
        "can write": [],
        "interfaces": ["lo"],
        "hostname": "plugin",
    }


async def test_more_processes_than_allowed_are_refused(docker_kit):
    code = """
import json, os, time
count = 0
try:
    for _ in range(60):
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        count += 1
except OSError:
    pass
print(json.dumps({"forked": count}), flush=True)
os._exit(0)
"""
    found = await output_of(docker_kit, code, pids=20)
    assert 10 < found["forked"] < 20


async def test_more_memory_than_allowed_is_death(docker_kit):
    """The kernel kills it. An engine that runs in a container itself does not see that it was for memory."""
    kit = docker_kit
    hog = "import time; time.sleep(0.2); x = b'x' * (300 * 1024**2)"
    async with kit.engine.events(kit.labels) as events:
        container = await kit.engine.create(kit.spec(memory=64 * MIB, command=("python3", "-c", hog)))
        await kit.engine.start(container)
        await kit.ended(container)
        seen = []
        async with asyncio.timeout(10):
            async for event in events:
                seen.append(event.action)
                if event.action == "die":
                    break
    status = await kit.engine.inspect(container)
    assert status.exit_code == 137
    assert "kill" not in seen


async def test_mounts_are_as_requested(docker_kit):
    kit = docker_kit
    for name in ("readable", "writable"):
        (kit.folder / name).mkdir(mode=0o777)
        (kit.folder / name).chmod(0o777)
    (kit.folder / "readable" / "file").write_text("content")
    code = """
import json, os
def writable(path):
    try:
        open(path + "/probe", "w").close()
    except OSError:
        return False
    return True
print(json.dumps({path: writable(path) for path in ("/a", "/b", "/c")} | {"content": open("/a/file").read()}))
"""
    found = await output_of(
        kit,
        code,
        mounts=(
            BindMount(kit.folder / "readable", "/a"),
            BindMount(kit.folder / "writable", "/b", read_only=False),
        ),
        tmpfs={"/c": "size=1m,mode=1777"},
    )
    assert found == {"/a": False, "/b": True, "/c": True, "content": "content"}


async def test_scratch_is_on_disk_and_is_removed_with_the_container(docker_kit):
    kit = docker_kit
    container = await kit.started(volumes=(Volume("/scratch"),))
    mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", container))
    (volume,) = [mount for mount in mounts if mount["Destination"] == "/scratch"]
    assert volume["Type"] == "volume"
    assert volume["RW"] is True
    await kit.engine.remove(container)
    assert volume["Name"] not in docker("volume", "ls", "--quiet").split()


async def test_output_beyond_the_bound_is_dropped(docker_kit):
    code = "for i in range(3000): print(f'{i:06}', 'x' * 90)"
    kit = docker_kit
    container = await kit.engine.create(kit.spec(command=("python3", "-c", code), log_bytes=64 * 1024))
    await kit.engine.start(container)
    await kit.ended(container)
    lines = (await kit.engine.logs(container, tail=10_000)).splitlines()
    assert sum(map(len, lines)) < 64 * 1024
    assert lines[-1].split(" ")[1] == "002999"
