"""The files of one run on disk, whatever ends their writing."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.harness import eventually

from orchestrator.sandbox.call import OutputFile, StorageError
from orchestrator.tools.run_files import OVERHEAD, RunFiles


def unbounded(_: int) -> None:
    pass


async def chunks(*parts: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then is not None:
        raise then


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "run.files", unbounded)


async def test_a_file_is_there_once_it_is_whole(files: RunFiles) -> None:
    seen = []

    async def watched() -> AsyncIterator[bytes]:
        for part in (b"ab", b"cd"):
            yield part
            seen.append(dict(files.finished))

    stored = await files.write("a.txt", "text/plain", 4, watched())
    assert stored == OutputFile("a.txt", "text/plain", 4, hashlib.sha256(b"abcd").hexdigest())
    assert (seen, files.finished) == ([{}, {}], {"a.txt": stored})
    assert [path.name for path in files.folder.iterdir()] == ["a.txt"]
    assert (files.folder / "a.txt").read_bytes() == b"abcd"
    assert files.reserved == 4 + OVERHEAD


async def test_nothing_is_left_of_one_that_breaks_off(files: RunFiles) -> None:
    with pytest.raises(ZeroDivisionError):
        await files.write("a.txt", "text/plain", 4, chunks(b"ab", then=ZeroDivisionError()))
    assert files.finished == {}
    await eventually(lambda: not list(files.folder.iterdir()), "the part is removed")


async def test_room_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    def refuse(size: int) -> None:
        raise StorageError(f"{size} bytes")

    files = RunFiles(tmp_path / "run.files", refuse)
    with pytest.raises(StorageError, match=str(4 + OVERHEAD)):
        await files.write("a.txt", "text/plain", 4, chunks(b"abcd"))
    assert (files.reserved, files.folder.exists()) == (0, False)


async def test_a_disk_without_a_folder_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = RunFiles(tmp_path / "file" / "run.files", unbounded)
    with pytest.raises(StorageError, match=r"a\.txt of the result cannot be stored: Not a directory"):
        await files.write("a.txt", "text/plain", 4, chunks(b"abcd"))


@pytest.mark.parametrize("held", ["_create", "_append", "_finish"])
async def test_a_write_that_is_cancelled_in_its_thread_leaves_nothing(
    files: RunFiles, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread goes on after the folder's removal was requested, and makes nothing anew."""
    reached, go, left = threading.Event(), threading.Event(), threading.Event()
    original = getattr(RunFiles, held)

    def holding(*arguments: object) -> object:
        reached.set()
        go.wait(10)
        try:
            return original(*arguments)
        finally:
            left.set()

    monkeypatch.setattr(RunFiles, held, holding)
    writing = asyncio.create_task(files.write("a.txt", "text/plain", 4, chunks(b"abcd")))
    await asyncio.to_thread(reached.wait, 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    files.discard()
    go.set()
    await asyncio.to_thread(left.wait, 10)
    await eventually(lambda: not files.folder.exists(), "the folder is removed")
    assert files.finished == {}
    with pytest.raises(StorageError):
        await files.write("b.txt", "text/plain", 4, chunks(b"abcd"))
    assert not files.folder.exists()
