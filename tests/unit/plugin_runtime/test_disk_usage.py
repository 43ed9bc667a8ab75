"""What a folder takes of the disk, whatever lies in it; and a cache that has grown too large."""

import os
import threading

import pytest
from plugin_runtime.shared.disk_usage import DiskUsage, measured
from plugin_runtime.startup.checks import check_cache
from plugin_runtime.tools.refusals import Refused
from plugin_runtime.tools.scratch import Scratch, size_text

MIB = 1024 * 1024


def fill(folder, files=1, size=MIB):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        (folder / f"file-{number}").write_bytes(os.urandom(size))


def test_all_files_count_once_and_links_do_not(tmp_path):
    """A file with two names is one; what a symbolic link names may lie anywhere."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    fill(inside / "deep" / "er", files=2)
    fill(outside, files=5)
    (inside / "twice").hardlink_to(inside / "deep" / "er" / "file-0")
    (inside / "link").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    assert 2 * MIB <= measured(str(inside)) < 2.2 * MIB


def test_what_is_not_there_is_nothing(tmp_path):
    assert measured(str(tmp_path / "nothing")) == 0


def test_holes_take_no_disk(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert measured(str(tmp_path)) < MIB


def test_many_files_are_measured_in_many_steps(tmp_path):
    """Each takes no longer than it may; the sum is known at the end, and is that of the whole."""
    fill(tmp_path, files=2000, size=100)
    usage, steps = DiskUsage(str(tmp_path)), 0
    while usage.bytes is None:
        usage.step(0.0005)
        steps += 1
    assert steps > 3
    assert usage.bytes == measured(str(tmp_path))


def test_after_a_measurement_it_rests(tmp_path):
    """In proportion to what the measurement took."""
    fill(tmp_path, files=500, size=10)
    usage = DiskUsage(str(tmp_path))
    usage.step(60)
    fill(tmp_path / "more")
    before = usage.bytes
    usage.step(60)
    assert usage.bytes == before


def test_uploads_at_once_share_what_is_free(tmp_path):
    """However they interleave, their sum stays within the limit."""
    scratch = Scratch(tmp_path, 10 * MIB)
    fill(tmp_path / "own", files=2)
    scratch.look()
    charged = []

    def upload():
        while True:
            try:
                scratch.charge(MIB // 4)
            except Refused:
                return
            charged.append(MIB // 4)

    threads = [threading.Thread(target=upload) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 7 * MIB < sum(charged) <= 8 * MIB
    scratch.release(MIB)
    scratch.charge(MIB)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (4 << 30, "4 GiB"), (5 << 40, "5 TiB")]
)
def test_sizes_are_written_as_manifests_have_them(size, text):
    assert size_text(size) == text


# The cache


def test_a_cache_within_its_size_stays(tmp_path):
    fill(tmp_path / "huggingface", files=2)
    check = check_cache(str(tmp_path), 3 * MIB)
    assert check.ok
    assert "of 3 MiB" in check.detail
    assert (tmp_path / "huggingface" / "file-1").exists()


def test_a_cache_over_its_size_is_cleared_and_says_so(tmp_path):
    """Nothing outside of it is touched, whatever its links name."""
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    fill(outside)
    fill(cache / "huggingface", files=4)
    (cache / "link").symlink_to(outside)
    (cache / "huggingface" / "file").symlink_to(outside / "file-0")
    check = check_cache(str(cache), 3 * MIB)
    assert check.ok
    assert "it held 4" in check.detail and "over its 3 MiB" in check.detail and "cleared" in check.detail
    assert list(cache.iterdir()) == []
    assert (outside / "file-0").stat().st_size == MIB


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    """Not an end: the plugin may do without."""
    check = check_cache(str(tmp_path / "nothing"), MIB)
    assert not check.ok
    assert "the image must have it" in check.detail
