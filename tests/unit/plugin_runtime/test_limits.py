"""What the kernel holds a container to, read from cgroup files as they were recorded on many kinds of hosts."""

import pytest
from plugin_runtime.shared.cgroup import Cgroup, MemoryReading
from plugin_runtime.shared.limits import not_held
from plugin_runtime.startup.checks import check_limits

GIB = 1 << 30
WANTED = {"memory_bytes": GIB, "swap_bytes": 0, "pids": 128, "cpus": 2.0}
HELD = {"memory_bytes": GIB, "swap_bytes": 0, "pids": 128, "cpus": 2.0}
NO_LIMIT_V1 = "9223372036854771712\n"

V2 = {
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "cgroup.procs": "1\n",
    "memory.max": "1073741824\n",
    "memory.swap.max": "0\n",
    "pids.max": "128\n",
    "cpu.max": "200000 100000\n",
}
V1 = {
    "memory": {
        "cgroup.procs": "",
        "memory.limit_in_bytes": "1073741824\n",
        "memory.memsw.limit_in_bytes": "1073741824\n",
    },
    "pids": {"cgroup.procs": "", "pids.max": "128\n"},
    "cpu": {"cgroup.procs": "", "cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"},
    "cpuacct": {"cgroup.procs": ""},
}
DOCKER_V1 = "9:pids:/docker/abc\n5:memory:/docker/abc\n2:cpuacct:/docker/abc\n1:cpu:/docker/abc\n0::/docker/abc\n"


def v2(path="", **changes):
    return {path: {**V2, **changes}}


def without(files, *names):
    return {name: text for name, text in files.items() if name not in names}


def lay_out(tmp_path, groups, membership, swap="0"):
    for name, files in groups.items():
        (tmp_path / "fs" / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (tmp_path / "fs" / name / file).write_text(text)
    (tmp_path / "membership").write_text(membership)
    (tmp_path / "meminfo").write_text(f"MemTotal:       24680000 kB\nSwapTotal:       {swap} kB\nSwapFree: 0 kB\n")
    return Cgroup(str(tmp_path / "fs"), str(tmp_path / "membership"), str(tmp_path / "meminfo"))


# A name for the host: groups, membership, SwapTotal in kB, what is read of it
HOSTS = {
    "v2, a namespace of its own": (v2(), "0::/\n", "2097148", HELD),
    "v2, the host's namespace, the own group mounted": (v2(), "0::/system.slice/docker-abc.scope\n", "0", HELD),
    "v2, the host's namespace, the whole tree mounted": (
        {"": {"cgroup.controllers": "cpu memory pids\n", "cgroup.procs": ""}, **v2("system.slice/docker-abc.scope")},
        "0::/system.slice/docker-abc.scope\n",
        "0",
        HELD,
    ),
    "v2, a group below that of the container": (
        {
            **v2(),
            **v2(
                "init", **{"memory.max": "max\n", "memory.swap.max": "max\n", "pids.max": "max\n", "cpu.max": "max 1\n"}
            ),
        },
        "0::/init\n",
        "2097148",
        HELD,
    ),
    "v2, a process from outside the namespace": (v2(), "0::/../../system.slice/x.scope\n", "0", HELD),
    "v2, a slice above has less": (
        {**v2("user.slice", **{"memory.max": "536870912\n"}), **v2("user.slice/a.scope"), **v2()},
        "0::/user.slice/a.scope\n",
        "0",
        {**HELD, "memory_bytes": GIB // 2},
    ),
    "v2, rootless without delegation of cpu": (
        {"": without(V2, "cpu.max")},
        "0::/\n",
        "0",
        {**HELD, "cpus": None},
    ),
    "v2, cgroup_disable=memory": (
        {"": without(V2, "memory.max", "memory.swap.max")},
        "0::/\n",
        "0",
        {**HELD, "memory_bytes": None},
    ),
    "v2, nothing limited": (
        v2(**{"memory.max": "max\n", "memory.swap.max": "max\n", "pids.max": "max\n", "cpu.max": "max 100000\n"}),
        "0::/\n",
        "0",
        {"memory_bytes": None, "swap_bytes": 0, "pids": None, "cpus": None},
    ),
    "v2, swap as much again": (v2(**{"memory.swap.max": "1073741824\n"}), "0::/\n", "9", {**HELD, "swap_bytes": GIB}),
    "v2, no accounting of swap": ({"": without(V2, "memory.swap.max")}, "0::/\n", "9", {**HELD, "swap_bytes": None}),
    "v2, no accounting of swap and none there": ({"": without(V2, "memory.swap.max")}, "0::/\n", "0", HELD),
    "v1": (V1, DOCKER_V1, "2097148", HELD),
    "v1, the whole tree mounted": (
        {
            **{name: {"cgroup.procs": ""} for name in V1},
            **{f"{name}/docker/abc": files for name, files in V1.items()},
        },
        DOCKER_V1,
        "0",
        HELD,
    ),
    "v1, cpu and cpuacct in one folder": (
        {"memory": V1["memory"], "pids": V1["pids"], "cpu,cpuacct": V1["cpu"]},
        "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n",
        "0",
        HELD,
    ),
    "v1, the two in one folder of the other order": (
        {"memory": V1["memory"], "pids": V1["pids"], "cpuacct,cpu": V1["cpu"] | {"cpu.cfs_quota_us": "200000\n"}},
        "4:cpuacct,cpu:/docker/abc\n3:memory:/docker/abc\n",
        "0",
        {**HELD, "cpus": 2.0},
    ),
    "v1, a kernel without the memory controller (Raspberry Pi OS)": (
        {"pids": V1["pids"], "cpu": V1["cpu"]},
        "9:pids:/docker/abc\n",
        "0",
        {**HELD, "memory_bytes": None},
    ),
    "v1, a kernel without the pids controller (NAS)": (
        {"memory": V1["memory"], "cpu": V1["cpu"]},
        "5:memory:/docker/abc\n",
        "0",
        {**HELD, "pids": None},
    ),
    "v1, nothing limited (rootless)": (
        {
            "memory": {"cgroup.procs": "", "memory.limit_in_bytes": NO_LIMIT_V1},
            "pids": {"cgroup.procs": "", "pids.max": "max\n"},
            "cpu": {"cgroup.procs": "", "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
        },
        DOCKER_V1,
        "2097148",
        {"memory_bytes": None, "swap_bytes": None, "pids": None, "cpus": None},
    ),
    "v1, swapaccount=0": (
        {**V1, "memory": without(V1["memory"], "memory.memsw.limit_in_bytes")},
        DOCKER_V1,
        "2097148",
        {**HELD, "swap_bytes": None},
    ),
    "hybrid: v1 limits, v2 only for systemd": (
        {**V1, "unified": {"cgroup.controllers": "", "cgroup.procs": ""}},
        DOCKER_V1,
        "0",
        HELD,
    ),
    "hybrid: memory only in v2": (
        {
            "pids": V1["pids"],
            "cpu": V1["cpu"],
            "unified": {"cgroup.controllers": "memory\n", "cgroup.procs": ""},
            "unified/docker/abc": {"cgroup.procs": "", "memory.max": "1073741824\n"},
        },
        DOCKER_V1,
        "0",
        HELD,
    ),
    "no control groups to be seen": ({"": {}}, "0::/\n", "0", {}),
}


@pytest.mark.parametrize("host", HOSTS)
def test_the_limits_that_hold_are_read(tmp_path, host):
    groups, membership, swap, found = HOSTS[host]
    assert lay_out(tmp_path, groups, membership, swap).limits() == found


def test_outside_a_container_nothing_is_known(tmp_path):
    """A runtime that an author starts by hand is in the groups of a session."""
    lay_out(tmp_path, v2(**{"memory.max": "max\n"}), "0::/\n")
    files = [str(tmp_path / name) for name in ("fs", "membership", "meminfo")]
    assert Cgroup(*files, contained=False).limits() == {}


def test_hits_are_counted_where_the_limit_is(tmp_path):
    """A group below the container's has no limit of its own, and so no hits."""
    events = "low 0\nhigh 0\nmax 9\noom {}\noom_kill {}\noom_group_kill 0\n"
    groups = {**v2(**{"memory.events": events.format(0, 0)}), **v2("init", **{"memory.max": "max\n"})}
    groups["init"]["memory.events"] = events.format(0, 0)
    cgroup = lay_out(tmp_path, groups, "0::/init\n")
    (tmp_path / "fs" / "memory.events").write_text(events.format(1, 1))
    (tmp_path / "fs" / "init" / "memory.events").write_text(events.format(0, 1))
    assert (cgroup.oom_kills(), cgroup.limit_hits()) == (1, 1)


@pytest.mark.parametrize(
    ("missing", "read"),
    [
        # Before Linux 5.19 there is no memory.peak, before 4.13 no oom_kill
        ({"memory.current": "7\n"}, (MemoryReading(7, None, GIB), None, None)),
        ({"memory.events": "low 0\nhigh 0\nmax 0\noom 0\n"}, (MemoryReading(None, None, GIB), None, 0)),
        (
            {"memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n", "memory.events.local": "oom 5\n"},
            (MemoryReading(None, None, GIB), 0, 0),
        ),
        # sock_throttled and others that newer kernels add
        (
            {"memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\nsock_throttled 3\n"},
            (MemoryReading(None, None, GIB), 0, 0),
        ),
    ],
)
def test_files_of_older_and_newer_kernels(tmp_path, missing, read):
    cgroup = lay_out(tmp_path, v2(**missing), "0::/\n")
    assert (cgroup.memory(), cgroup.oom_kills(), cgroup.limit_hits()) == read


@pytest.mark.parametrize(
    ("group", "events"),
    [("", "max 3\nmax.imposed 3\n"), ("init", "max 3\n")],
    ids=["counted where the limit is", "counted where the process was to start"],
)
def test_refused_processes_are_counted_by_kernels_of_both_kinds(tmp_path, group, events):
    groups = {**v2(**{"pids.events": "max 0\n"}), **v2("init", **{"pids.max": "max\n", "pids.events": "max 0\n"})}
    cgroup = lay_out(tmp_path, groups, "0::/init\n")
    (tmp_path / "fs" / group / "pids.events").write_text(events)
    assert cgroup.pids() == (128, 3)


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (HELD, ()),
        ({}, ()),
        ({"memory_bytes": None}, ("memory",)),
        ({**HELD, "pids": None}, ("pids",)),
        ({**HELD, "swap_bytes": None}, ("swap",)),
        ({**HELD, "swap_bytes": GIB}, ("swap",)),
        ({**HELD, "memory_bytes": 2 * GIB}, ("memory",)),
        ({**HELD, "memory_bytes": GIB - 4095, "pids": 100, "cpus": 1.999}, ()),
        (dict.fromkeys(HELD), ("memory", "swap", "pids", "cpus")),
    ],
)
def test_what_does_not_hold_is_named(found, missing):
    """A limit that is lower than wanted holds; one that cannot be known is let through."""
    assert not_held(WANTED, found) == missing


def test_a_limit_that_nobody_wants_need_not_hold():
    assert not_held({"memory_bytes": GIB}, dict.fromkeys(HELD)) == ("memory",)


def test_the_runtime_refuses_to_start_without_its_limits():
    failure = check_limits(WANTED, {**HELD, "pids": None, "swap_bytes": None})
    assert failure.code == "LIMITS_UNSUPPORTED"
    assert "swap (`limits.memory`) and `limits.pids`" in failure.reason
    assert check_limits(WANTED, HELD) is None
