"""The store: a file has its hash's name only when it is whole, and a lock lives as long as its holder."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.models.plan import StoredFile
from orchestrator.models.store import ModelStore, ModelStoreError, Partial, hash_file, model_store
from orchestrator.settings import Settings

from .conftest import CONTENT, SHA256


def opened(store: ModelStore) -> Partial:
    partial = store.open_partial(SHA256)
    assert partial is not None
    return partial


def test_the_store_is_beside_the_models_or_in_the_state_folder(tmp_path: Path) -> None:
    """No plugin can have the name of the former."""
    both = Settings(state_dir=tmp_path / "state", models_dir=tmp_path / "models")
    assert model_store(both).root == tmp_path / "models" / ".store"
    assert model_store(Settings(state_dir=tmp_path / "state")).root == tmp_path / "state" / "models"


def test_a_store_that_does_not_exist_is_empty(store: ModelStore) -> None:
    """And looking makes nothing."""
    assert (store.files(), store.partials(), store.find(SHA256), store.partial(SHA256)) == ([], [], None, None)
    store.sweep()
    assert not store.root.exists()


def test_only_right_bytes_get_the_name(store: ModelStore) -> None:
    with opened(store) as partial:
        partial.append(CONTENT[:-1])
        with pytest.raises(AssertionError):
            partial.publish()
        partial.append(CONTENT[-1:])
        partial.publish()
    assert store.files() == [StoredFile(SHA256, len(CONTENT))]
    assert store.partials() == []


def test_a_partial_file_is_one_processs_at_a_time(store: ModelStore) -> None:
    with opened(store) as partial:
        partial.begin("https://host/w", '"1"', 10, restart=True)
        partial.append(b"12345")
        assert store.open_partial(SHA256) is None
        (seen,) = store.partials()
        assert (seen.size, seen.total, seen.under_way, seen.source) == (5, 10, True, "https://host/w")
        assert seen.since is not None and datetime.now(UTC) - seen.since < timedelta(minutes=5)
        assert not store.remove_partial(SHA256)
    (seen,) = store.partials()
    assert not seen.under_way
    with opened(store) as partial:
        partial.load(lambda *_: None)
        assert (partial.size, partial.total, partial.url, partial.validator) == (5, 10, "https://host/w", '"1"')
    assert store.remove_partial(SHA256)
    assert list((store.root / "partial").iterdir()) == []


def test_looking_takes_nobodys_turn(store: ModelStore) -> None:
    """However often a health route looks, whoever wants to fetch can."""
    with opened(store) as partial:
        partial.append(b"1")
    for _ in range(100):
        store.partials()
        with opened(store):
            pass


def test_the_kernel_releases_the_lock_of_a_killed_process(store: ModelStore) -> None:
    code = (
        "import pathlib, sys, time; from orchestrator.models.store import ModelStore\n"
        f"partial = ModelStore(pathlib.Path({str(store.root)!r})).open_partial({SHA256!r})\n"
        "partial.append(b'12345'); print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        assert store.open_partial(SHA256) is None
        holder.kill()
        holder.wait()
        with opened(store) as partial:
            partial.load(lambda *_: None)
            assert partial.size == 5


def test_a_waiter_does_not_write_into_a_file_that_was_finished_meanwhile(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has opened the file that gets its name while it waits for the lock."""
    first = opened(store)
    first.append(CONTENT)
    from orchestrator.models import store as module

    lock, calls = module._lock, []

    def locked(descriptor: int, kind: int) -> bool:
        if not calls:
            calls.append(os.fstat(descriptor).st_ino)
            first.publish()
            first.__exit__()
        return lock(descriptor, kind)

    monkeypatch.setattr(module, "_lock", locked)
    with opened(store) as second:
        second.append(b"other")
    path = store.find(SHA256)
    assert path is not None and path.stat().st_ino == calls[0] and path.read_bytes() == CONTENT


def test_damaged_notes_are_none(store: ModelStore) -> None:
    """A partial file without them is continued all the same."""
    with opened(store) as partial:
        partial.append(b"1")
    (store.root / "partial" / f"{SHA256}.json").write_bytes(b"{")
    (seen,) = store.partials()
    assert (seen.size, seen.total, seen.source) == (1, None, "")
    with opened(store) as partial:
        assert (partial.url, partial.validator) == ("", "")


def test_sweeping_removes_notes_without_their_file(store: ModelStore) -> None:
    with opened(store) as partial:
        partial.begin("https://host/w", "", None, restart=True)
        folder = store.root / "partial"
        (folder / ("b" * 64 + ".json")).touch()
        (folder / ("c" * 64 + ".new")).touch()
        store.sweep()
        assert sorted(path.name for path in folder.iterdir()) == [SHA256, f"{SHA256}.json"]


def test_other_files_in_the_store_are_left_alone(store: ModelStore) -> None:
    with opened(store) as partial:
        partial.append(CONTENT)
        partial.publish()
    (store.root / "sha256" / "README").touch()
    (store.root / "sha256" / ("b" * 64)).symlink_to("/etc/passwd")
    (store.root / "sha256" / ("c" * 64)).mkdir()
    assert [file.sha256 for file in store.files()] == [SHA256]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_fetches_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    """So that an orchestrator that is not root can go on with it."""
    os.chown(tmp_path, 1234, 1234)
    store = ModelStore(tmp_path / "store")
    with opened(store) as partial:
        partial.append(CONTENT)
        partial.publish()
    for path in (store.root, store.root / "sha256", store.root / "partial", store.root / "sha256" / SHA256):
        assert path.stat().st_uid == 1234


def test_whatever_the_umask_a_container_can_read_the_file(store: ModelStore) -> None:
    before = os.umask(0o077)
    try:
        with opened(store) as partial:
            partial.append(CONTENT)
            partial.publish()
    finally:
        os.umask(before)
    assert (store.root / "sha256" / SHA256).stat().st_mode & 0o777 == 0o444
    assert (store.root / "sha256").stat().st_mode & 0o777 == 0o755


def test_a_file_is_hashed_in_view(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(CONTENT)
    steps: list[tuple[int, int]] = []
    assert hash_file(tmp_path / "w", lambda done, total: steps.append((done, total))) == SHA256
    assert steps[-1] == (len(CONTENT), len(CONTENT))


def test_errors_name_the_folder_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(ModelStoreError, match=r"store.*ORCHESTRATOR_MODELS_DIR"):
        ModelStore(tmp_path / "store").open_partial(SHA256)
