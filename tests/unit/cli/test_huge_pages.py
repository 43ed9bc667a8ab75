"""The heap in huge pages: which addresses are meant, and what becomes of it where the kernel cannot."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.huge_pages import collapse_heap, huge_starts

MIB = 1024 * 1024
MAPS = "\n".join(
    [
        "00400000-00900000 r-xp 00000000 08:01 42 /usr/bin/python3.11",
        "00a00000-00e00000 rw-p 00000000 00:00 0 [heap]",
        f"{0x10000000 + MIB:08x}-{0x10000000 + 6 * MIB:08x} rw-p 00000000 00:00 0 ",
        "20000000-20300000 rw-p 00000000 08:01 42 /usr/bin/python3.11",
        "30000000-30800000 rw-s 00000000 00:01 7 /dev/zero (deleted)",
        "40000000-40800000 ---p 00000000 00:00 0 ",
        "50000000-50100000 rw-p 00000000 00:00 0 ",
        "7ffd00000000-7ffd00800000 rw-p 00000000 00:00 0 [stack]",
    ]
)


def test_only_private_memory_of_no_file_is_meant_and_whole_pages_of_it() -> None:
    assert list(huge_starts(MAPS)) == [0xA00000, 0xC00000, 0x10200000, 0x10400000]


@pytest.mark.parametrize(
    ("switch", "answers", "moved", "asked"),
    [
        ("always [madvise] never", [0] * 4, 4, 4),
        ("always [madvise] never", [errno.ENOMEM, 0, errno.EAGAIN, 0], 2, 4),
        ("always [madvise] never", [errno.EINVAL] * 4, 0, 1),
        ("always madvise [never]", [0] * 4, 0, 0),
    ],
    ids=["all", "some", "older kernel", "switched off"],
)
def test_as_many_as_the_kernel_can_are_moved(
    tmp_path: Path, switch: str, answers: list[int], moved: int, asked: int
) -> None:
    (tmp_path / "maps").write_text(MAPS)
    (tmp_path / "switch").write_text(switch)
    requests: list[tuple[int, int, int]] = []

    def advise(start: int, size: int, advice: int) -> int:
        requests.append((start, size, advice))
        return answers[len(requests) - 1]

    assert collapse_heap(tmp_path / "maps", tmp_path / "switch", advise) == moved
    assert len(requests) == asked


def test_a_system_without_them_is_left_alone(tmp_path: Path) -> None:
    assert collapse_heap(tmp_path / "maps", tmp_path / "switch") == 0


def test_a_process_goes_on_in_huge_pages() -> None:
    """With all that it had, on this machine's own kernel."""
    program = """
from pathlib import Path
from orchestrator.cli.huge_pages import collapse_heap
values = {number: str(number) * 5 for number in range(200_000)}
moved = collapse_heap()
huge = [line.split()[1] for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "AnonHuge" in line]
assert values == {number: str(number) * 5 for number in range(200_000)}
print(moved, *huge)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    moved, kilobytes = int(found[0]), int(found[1]) if len(found) > 1 else 0
    assert kilobytes >= moved * 2048
