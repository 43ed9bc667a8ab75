"""A failure for want of processes and threads names the limit that it ran into."""

import errno
import os

import pytest
from plugin_runtime.shared.cgroup import PidsReading
from plugin_runtime.tools.pids_limit import PidsLimit


class Group:
    """Stands for the kernel's counters."""

    def __init__(self, limit, refused):
        self.reading = PidsReading(limit, refused)

    def pids(self):
        return self.reading


def raised(text, cause):
    error = RuntimeError(text)
    error.__cause__ = cause
    return error


LIKELY = [
    RuntimeError("can't start new thread"),
    BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
    OSError(errno.EAGAIN, "fork failed"),
    RuntimeError("Resource temporarily unavailable"),
    RuntimeError("pthread_create failed (EAGAIN)"),
    raised("the pool is broken", RuntimeError("can't start new thread")),
]


@pytest.mark.parametrize("error", LIKELY, ids=str)
def test_the_limit_is_named_with_its_value_and_what_to_do(error):
    advice = PidsLimit(Group(128, 1)).advice(error)
    for phrase in ("128", "`limits.pids`", "OMP_NUM_THREADS"):
        assert phrase in advice


@pytest.mark.parametrize("group", [Group(128, 0), Group(128, None), Group(None, None)])
@pytest.mark.parametrize("error", LIKELY, ids=str)
def test_nothing_is_said_where_the_kernel_refused_nothing(group, error):
    """A socket that would block is EAGAIN too."""
    assert PidsLimit(group).advice(error) == ""


@pytest.mark.parametrize("error", [ValueError("bad value"), OSError(errno.ENOENT, "no file"), KeyError("thread")])
def test_nothing_is_said_of_other_errors(error):
    assert PidsLimit(Group(128, 5)).advice(error) == ""
