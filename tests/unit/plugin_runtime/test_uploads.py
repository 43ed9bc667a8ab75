"""Uploads for `Path` parameters go to disk as they arrive, are removed after the call, and are bounded."""

import errno
import os
import time
from pathlib import Path

import pytest

SOURCE = """
    import os
    from pathlib import Path
    from plugin_runtime import InvalidInput, tool

    class Plugin:
        def validate(self): pass

        @tool
        def measure(self, video: Path, factor: int = 1) -> dict:
            (video.parent / "left behind").mkdir()
            (video.parent / "left behind" / "x").write_bytes(b"x")
            with video.open("rb") as stream:
                size = sum(len(part) for part in iter(lambda: stream.read(1 << 20), b""))
            return {"size": size * factor, "name": video.name, "folder": str(video.parent)}

        @tool
        def optional(self, video: Path | None = None) -> bool:
            return video is not None

        @tool
        def keep(self, size: int, name: str = "kept") -> int:
            (Path(os.environ["PLUGIN_SCRATCH_DIR"]) / name).write_bytes(os.urandom(size))
            return size

        @tool
        def remove(self) -> None:
            (Path(os.environ["PLUGIN_SCRATCH_DIR"]) / "kept").unlink()

        @tool
        def full(self, path: str, number: int) -> None:
            raise OSError(number, os.strerror(number), path)

        @tool
        def raises(self, video: Path) -> None:
            raise ValueError(str(video))

        @tool
        def frames(self, video: Path) -> object:
            for number in range(3):
                yield [number, video.stat().st_size]
"""
MIB = 1024 * 1024
LIMIT = 320 * MIB


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE, max_scratch=str(LIMIT)).ready()


def left_on_disk(runtime):
    """What is still there after a moment: the answer does not wait for a large file's removal."""
    deadline = time.monotonic() + 5
    while (left := list((runtime.scratch / "uploads").glob("*"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def peak(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def reset_peak(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def pieces(total):
    part = os.urandom(MIB)
    for _ in range(total // MIB):
        yield part


def form_parts(total):
    yield b'--b\r\nContent-Disposition: form-data; name="factor"\r\n\r\n2\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
    yield from pieces(total)
    yield b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("content", "content_type", "factor"),
    [(pieces, "video/mp4", 1), (form_parts, "multipart/form-data; boundary=b", 2)],
    ids=["raw", "multipart"],
)
def test_a_large_upload_is_never_held_in_memory(runtime, content, content_type, factor):
    pid = runtime.status()["worker"]["pid"]
    assert runtime.post("optional", files={"video": ("w", b"warm")}).json()["result"] is True
    reset_peak(pid)
    before = peak(pid)
    result = runtime.post("measure", content=content(300 * MIB), headers={"content-type": content_type}).json()[
        "result"
    ]
    assert result["size"] == 300 * MIB * factor
    assert result["name"] == "video.mp4"
    assert peak(pid) - before < 12 * MIB
    assert left_on_disk(runtime) == []


@pytest.mark.parametrize("in_chunks", [True, False])
def test_uploads_over_the_scratch_limit_are_refused_and_removed(runtime, in_chunks):
    size = LIMIT + MIB
    headers = {"content-type": "video/mp4"}
    if not in_chunks:
        headers["content-length"] = str(size)
    answer = runtime.post("measure", content=pieces(size), headers=headers)
    assert answer.status_code == 413
    assert answer.json()["kind"] == "too_large"
    assert "320 MiB" in answer.json()["error"] and "limits.scratch" in answer.json()["error"]
    assert left_on_disk(runtime) == []


@pytest.mark.parametrize(
    ("run_id", "file_name", "name"),
    [
        ("run-1", "holiday.MP4", "video.mp4"),
        ("../../etc", "../../x.sh", "video.sh"),
        ("a b", "no suffix", "video"),
        ("", "odd.s/fx", "video"),
        ("x" * 500, "long." + "s" * 50, "video"),
    ],
)
def test_a_callers_names_choose_no_path_on_disk(runtime, run_id, file_name, name):
    files = {"video": (file_name, b"abc")}
    result = runtime.post("measure", files=files, headers={"x-run-id": run_id}).json()["result"]
    assert result["name"] == name
    assert Path(result["folder"]).parent == runtime.scratch / "uploads"
    assert left_on_disk(runtime) == []


def test_the_upload_is_removed_when_the_tool_raises(runtime):
    assert runtime.post("raises", files={"video": ("a", b"abc")}).json()["kind"] == "exception"
    assert left_on_disk(runtime) == []


def test_the_upload_is_removed_when_the_arguments_are_refused(runtime):
    answer = runtime.post("measure", files={"video": ("a", b"abc"), "factor": (None, "x")})
    assert answer.json()["kind"] == "invalid_arguments"
    assert left_on_disk(runtime) == []


def test_the_upload_is_removed_when_the_caller_hangs_up(runtime):
    with runtime.connect("tools") as connection:
        head = b"POST /tools/measure HTTP/1.1\r\nContent-Type: video/mp4\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head + b"x" * 500)
    assert runtime.post("optional").json()["result"] is False
    assert left_on_disk(runtime) == []


def test_a_generator_has_its_upload_to_its_end(runtime):
    lines = runtime.post("frames", files={"video": ("a", b"abc")}).text.splitlines()
    assert len(lines) == 4
    assert '"data":[2,3]' in lines[2]
    assert left_on_disk(runtime) == []


def test_an_optional_upload_may_stay_away(runtime):
    assert runtime.post("optional").json()["result"] is False
    assert runtime.run("optional").json()["result"] is False


@pytest.mark.slow
def test_a_full_disk_is_reported_as_such(launch):
    """The scratch folder cannot be written to, whatever the reason."""
    runtime = launch(SOURCE).ready()
    (runtime.scratch / "uploads").write_text("in the way")
    answer = runtime.post("optional", files={"video": ("a", b"abc")})
    assert answer.status_code == 413
    assert "scratch folder" in answer.json()["error"]


# With what the plugin keeps


def test_uploads_have_the_room_that_the_plugins_own_files_leave(runtime):
    """One limit for both, as the manifest has one."""
    headers = {"content-type": "video/mp4"}
    assert runtime.post("keep", json={"size": 200 * MIB}).json()["result"] == 200 * MIB
    refused = runtime.post("measure", content=pieces(150 * MIB), headers=headers)
    assert refused.status_code == 413
    assert "200 MiB" in refused.json()["error"]
    assert runtime.post("measure", content=pieces(50 * MIB), headers=headers).status_code == 200
    runtime.post("remove", json={})
    assert runtime.post("measure", content=pieces(150 * MIB), headers=headers).status_code == 200
    assert left_on_disk(runtime) == []


@pytest.mark.parametrize(
    ("path", "number", "phrases"),
    [
        ("", errno.ENOSPC, ["`limits.scratch`", "320 MiB", "disk itself is full"]),
        ("", errno.EDQUOT, ["`limits.scratch`", "320 MiB"]),
        ("/tmp/x", errno.ENOSPC, ["/tmp", "16 MiB", "PLUGIN_SCRATCH_DIR"]),
        ("/dev/shm/x", errno.ENOSPC, ["`limits.shm`"]),
        ("/plugin/out.png", errno.EROFS, ["only ", "PLUGIN_SCRATCH_DIR", "`tempfile`"]),
        ("", errno.ENOENT, []),
    ],
)
def test_a_full_disk_names_the_limit(runtime, path, number, phrases):
    """And what to do, where a tool let the error through."""
    # Another folder of these names would be taken for the container's.
    error = runtime.post("full", json={"path": path or "x", "number": number}).json()["error"]
    assert all(phrase in error for phrase in phrases), error
    assert phrases or "limits." not in error


def test_the_status_tells_what_the_scratch_folder_holds(runtime):
    """Measured by the supervisor, now and then."""
    runtime.post("keep", json={"size": 20 * MIB, "name": "more"})
    deadline = time.monotonic() + 20
    while not (used := runtime.status()["scratch"]["used_bytes"] or 0) >= 20 * MIB:
        assert time.monotonic() < deadline, used
        time.sleep(0.1)
    assert runtime.status()["scratch"]["limit_bytes"] == LIMIT
