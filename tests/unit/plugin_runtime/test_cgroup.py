"""The kernel's counters are read alike from cgroup v1 and v2, and are null where there are none."""

import os
from pathlib import Path

import pytest
from plugin_runtime.shared.cgroup import Cgroup, MemoryReading, PidsReading, controller_paths, shared_memory

OPEN_FILES = Path("/proc/self/fd")


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def v1(kills=0, limit="67108864", cpu=0, hits=3, refused=0):
    memory = {
        "cgroup.procs": "",
        "memory.usage_in_bytes": "100\n",
        "memory.max_usage_in_bytes": "200\n",
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.failcnt": f"{hits}\n",
        "memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
    }
    pids = {"cgroup.procs": "", "pids.max": "128\n", "pids.events": f"max {refused}\n"}
    return {"memory": memory, "cpuacct": {"cgroup.procs": "", "cpuacct.usage": f"{cpu}\n"}, "pids": pids}


def v2(kills=0, limit="67108864", cpu=0, hits=3, refused=0):
    return {
        "": {
            "cgroup.controllers": "cpu memory\n",
            "cgroup.procs": "",
            "memory.current": "100\n",
            "memory.peak": "200\n",
            "memory.max": f"{limit}\n",
            "memory.events": f"low 0\nhigh 0\nmax 9\noom {hits}\noom_kill {kills}\noom_group_kill 0\n",
            "pids.max": "128\n",
            "pids.events": f"max {refused}\n",
            "cpu.stat": f"usage_usec {cpu // 1000}\nuser_usec 1\n",
        }
    }


@pytest.fixture(params=[v1, v2], ids=["v1", "v2"])
def version(request):
    return request.param


def lay_out(tmp_path, groups):
    for name, files in groups.items():
        write(tmp_path / "fs" / name, files)
    (tmp_path / "membership").write_text("5:memory:/docker/abc\n4:cpuacct:/docker/abc\n0::/docker/abc\n")
    return str(tmp_path / "fs"), str(tmp_path / "membership")


def test_memory_is_read(tmp_path, version):
    cgroup = Cgroup(*lay_out(tmp_path, version()))
    assert cgroup.memory() == MemoryReading(100, 200, 67108864)


@pytest.mark.parametrize(("make", "limit"), [(v1, "9223372036854771712"), (v2, "max")])
def test_no_limit_is_null(tmp_path, make, limit):
    assert Cgroup(*lay_out(tmp_path, make(limit=limit))).memory().limit_bytes is None


def test_kills_and_processor_time_count_from_the_start(tmp_path, version):
    cgroup = Cgroup(*lay_out(tmp_path, version(kills=2, cpu=5_000_000_000)))
    assert cgroup.oom_kills() == 0
    lay_out(tmp_path, version(kills=3, cpu=6_500_000_000))
    assert cgroup.oom_kills() == 1
    assert cgroup.cpu_seconds() == 1.5


def test_kills_are_counted_whatever_the_plugin_closes(tmp_path, version):
    """Also where it opens a file of its own afterwards, which has the number of the kernel's."""
    cgroup = Cgroup(*lay_out(tmp_path, version(kills=2)))
    before = cgroup.oom_kills()
    (tmp_path / "own").write_text("of the plugin")
    own = os.open(tmp_path / "own", os.O_RDONLY)
    try:
        os.dup2(own, cgroup._kills_file)
        lay_out(tmp_path, version(kills=3))
        assert (before, cgroup.oom_kills()) == (0, 1)
        os.close(cgroup._kills_file)
        lay_out(tmp_path, version(kills=5))
        assert cgroup.oom_kills() == 3
    finally:
        os.close(own)


def test_a_kernel_that_counts_no_kills_is_asked_without_a_descriptor_more(tmp_path):
    cgroup = Cgroup(
        *lay_out(tmp_path, {"": {"cgroup.controllers": "", "cgroup.procs": "", "memory.events": "oom 0\n"}})
    )
    open_files = len(list(OPEN_FILES.iterdir()))
    assert {cgroup.oom_kills() for _ in range(3)} == {None}
    assert len(list(OPEN_FILES.iterdir())) == open_files


def test_hits_of_limits_count_from_the_start(tmp_path, version):
    cgroup = Cgroup(*lay_out(tmp_path, version(hits=2, refused=5)))
    assert (cgroup.limit_hits(), cgroup.pids()) == (0, PidsReading(128, 0))
    lay_out(tmp_path, version(hits=3, refused=7))
    assert (cgroup.limit_hits(), cgroup.pids()) == (1, PidsReading(128, 2))


def test_shared_memory_is_measured(tmp_path):
    found = shared_memory(str(tmp_path))
    assert 0 <= found.used_bytes <= found.size_bytes
    assert shared_memory(str(tmp_path / "nothing")) == (None, None)


def test_the_own_group_is_preferred_where_the_whole_tree_is_mounted(tmp_path):
    lay_out(tmp_path, v1())
    lay_out(tmp_path, {"memory/docker/abc": v1()["memory"] | {"memory.usage_in_bytes": "7\n"}})
    assert Cgroup(str(tmp_path / "fs"), str(tmp_path / "membership")).memory().usage_bytes == 7


def test_what_cannot_be_had_is_null(tmp_path):
    cgroup = Cgroup(str(tmp_path / "nothing"), str(tmp_path / "nothing"))
    assert cgroup.memory() == (None, None, None)
    assert cgroup.oom_kills() is None
    assert cgroup.cpu_seconds() is None
    assert cgroup.limit_hits() is None
    assert cgroup.pids() == (None, None)


def test_membership_is_read_by_controller():
    assert controller_paths("9:cpu,cpuacct:/x/\n0::/y\n") == {"cpu": "/x", "cpuacct": "/x", "": "/y"}
