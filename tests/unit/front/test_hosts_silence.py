"""How long a front takes a host for silent: by what it answers, and by how late the front itself is."""

from orchestrator.front import directory
from orchestrator.front.host_state import STALE_SECONDS, HostState, heard
from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def one_host(clock: Clock) -> Hosts:
    """That has just answered."""
    hosts = Hosts([HostEntry(name="a", address="http://127.0.0.1:1")], clock)
    known = hosts.directory.hosts["a"]
    hosts.put(directory.observed(known, heard(known.status, clock.now)))
    return hosts


def state_after(hosts: Hosts, clock: Clock, seconds: float, *, status: int | None = None) -> HostState:
    """After so long, looked at four times a second, while a request is answered with this status each time."""
    for _ in range(int(seconds * 4)):
        clock.now += 0.25
        if status is not None:
            hosts.answered("a", status)
        _ = hosts.directory
    return hosts.directory.hosts["a"].status.state


async def test_a_host_whose_proxy_alone_answers_is_silent() -> None:
    for status, state in (
        (None, HostState.STALE),
        (502, HostState.STALE),
        (503, HostState.STALE),
        (200, HostState.ONLINE),
    ):
        clock = Clock()
        assert state_after(one_host(clock), clock, STALE_SECONDS, status=status) is state, status


async def test_the_fronts_own_pause_makes_no_host_stale_later_than_it_is() -> None:
    """It was heard in the middle of the pause, and nothing was heard of it since."""
    clock = Clock()
    hosts = one_host(clock)
    clock.now += 10.0
    hosts.answered("a", 200)
    assert hosts.directory.hosts["a"].status.state is HostState.ONLINE
    assert state_after(hosts, clock, STALE_SECONDS - 0.25) is HostState.ONLINE
    assert state_after(hosts, clock, 0.25) is HostState.STALE
