"""A plugin whose model has changed is not adopted: its container has the old one."""

import os
from pathlib import Path

from orchestrator.supervisor.preparation import _model_stamp


def test_a_folder_has_another_stamp_after_any_change_in_it(tmp_path: Path) -> None:
    """Content, names, files more or less; also below what a link leads to. The time of reading does not matter."""
    folder = tmp_path / "hub"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "a").write_bytes(b"1")
    (folder / "config.json").symlink_to("blobs/a")
    seen = [_model_stamp(folder)]

    def changed() -> bool:
        seen.append(_model_stamp(folder))
        return seen[-1] not in seen[:-1]

    os.utime(folder / "blobs" / "a", ns=(1, (folder / "blobs" / "a").stat().st_mtime_ns))
    assert not changed()
    (folder / "blobs" / "a").write_bytes(b"22")
    assert changed()
    (folder / "b").touch()
    assert changed()
    (folder / "b").rename(folder / "c")
    assert changed()
    (folder / "c").unlink()
    (folder / "config.json").unlink()
    assert changed()


def test_a_file_has_another_stamp_when_it_was_replaced(tmp_path: Path) -> None:
    """By another of the same size and time."""
    (tmp_path / "w.pt").write_bytes(b"1")
    before = _model_stamp(tmp_path / "w.pt")
    (tmp_path / "new").write_bytes(b"2")
    os.utime(tmp_path / "new", ns=(0, (tmp_path / "w.pt").stat().st_mtime_ns))
    (tmp_path / "new").rename(tmp_path / "w.pt")
    assert _model_stamp(tmp_path / "w.pt") != before
