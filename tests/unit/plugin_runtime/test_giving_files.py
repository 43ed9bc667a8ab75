"""Files of results over the tool socket: announced with the answer, fetched by name, dropped with the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.plugin_runtime.run_calls import wait_for

pytestmark = pytest.mark.slow

SOURCE = """
    import os
    from pathlib import Path
    from plugin_runtime import File, Progress, tool

    SCRATCH = Path(os.environ["PLUGIN_SCRATCH_DIR"])

    class Plugin:
        def validate(self):
            SCRATCH.mkdir(exist_ok=True)

        @tool
        def gives(self, size: int = 5) -> dict:
            return {"blob": b"x" * size, "n": 1}

        @tool
        def grows(self) -> File:
            path = SCRATCH / "log.txt"
            path.write_text("abc")
            result = File(path)
            self.path = path
            return result

        @tool
        def grow(self) -> int:
            with self.path.open("a") as file:
                return file.write("def")

        @tool
        def frames(self, n: int = 3):
            path = SCRATCH / "frame.bin"
            for number in range(n):
                path.write_bytes(bytes([number]) * 4)
                yield Progress(number / n)
                yield {"number": number, "frame": File(path)}

        @tool
        def parts(self):
            yield b"ab"
            yield b"cd"

        @tool
        def breaks(self):
            return {"a": b"x", "b": object()}

        @tool
        def leaves(self) -> File:
            return File("/etc/hostname")
    """
RETAIN = {"X-Run-Keep": "1"}


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE, max_output="1000000").ready()


def announced(answer: Any) -> dict[str, Any]:
    document = answer.json()
    assert document["ok"], document
    (file,) = document["files"]
    return {**document, **file}


def files_open(runtime: Any) -> int:
    """Descriptors of the worker that are deleted files."""
    links = (runtime_fd.readlink() for runtime_fd in worker_descriptors(runtime))
    return sum(str(link).endswith(" (deleted)") for link in links)


def worker_descriptors(runtime: Any) -> list[Any]:
    from pathlib import Path

    return list(Path(f"/proc/{runtime.status()['worker']['pid']}/fd").iterdir())


@pytest.mark.parametrize("size", [0, 5, 700_000])
def test_a_file_is_announced_and_can_be_fetched_any_number_of_times(runtime, size):
    document = announced(runtime.post("gives", json={"size": size}, headers={"X-Run-Id": f"run-{size}"}))
    assert document["result"] == {"blob": document["mark"], "n": 1}
    assert (document["name"], document["media_type"], document["size"]) == (
        "blob.bin",
        "application/octet-stream",
        size,
    )
    with runtime.new_client("tools") as client:
        for _ in range(2):
            answer = client.get(f"/runs/run-{size}/files/blob.bin")
            assert (answer.status_code, answer.content) == (200, b"x" * size)
        unknown = client.get(f"/runs/run-{size}/files/other")
        assert (unknown.status_code, unknown.json()["kind"]) == (404, "unknown_file")


def test_files_are_gone_with_the_next_request_of_their_caller(runtime):
    before = files_open(runtime)
    with runtime.new_client("tools") as caller, runtime.new_client("tools") as other:
        caller.post("/tools/gives", json={"size": 700_000}, headers={"X-Run-Id": "mine"})
        assert other.get("/runs/mine/files/blob.bin").status_code == 200
        assert files_open(runtime) == before + 1
        caller.post("/tools/gives", json={"size": 1}, headers={"X-Run-Id": "next"})
        assert other.get("/runs/mine/files/blob.bin").status_code == 404
        wait_for(lambda: files_open(runtime) == before)
        assert other.get("/runs/next/files/blob.bin").status_code == 200
    with runtime.new_client("tools") as other:
        # The caller of the next one has hung up.
        wait_for(lambda: other.get("/runs/next/files/blob.bin").status_code == 404)


def test_files_of_a_retained_answer_stay_until_it_is_deleted(runtime):
    with runtime.new_client("tools") as client:
        client.post("/tools/gives", json={"size": 3}, headers={"X-Run-Id": "retained", **RETAIN})
    with runtime.new_client("tools") as client:
        assert announced(client.get("/runs/retained"))["name"] == "blob.bin"
        assert client.get("/runs/retained/files/blob.bin").content == b"xxx"
        client.delete("/runs/retained")
        assert client.get("/runs/retained/files/blob.bin").status_code == 404


def test_what_has_changed_since_comes_as_it_is_now(runtime):
    document = announced(runtime.post("grows", json={}, headers={"X-Run-Id": "grew"}))
    assert (document["name"], document["media_type"], document["size"]) == ("log.txt", "text/plain", 3)
    with runtime.new_client("tools") as client:
        client.post("/tools/grow", json={})
        assert client.get("/runs/grew/files/log.txt").content == b"abcdef"


def test_items_announce_their_files_and_may_overwrite_them(runtime):
    with (
        runtime.new_client("tools") as caller,
        caller.stream("POST", "/tools/frames", json={}, headers={"X-Run-Id": "film"}) as stream,
    ):
        lines = [json.loads(line) for line in stream.iter_lines()]
        items = [line for line in lines if line["event"] == "item"]
        assert [item["files"][0]["name"] for item in items] == ["frame.bin", "frame-2.bin", "frame-3.bin"]
        assert [item["data"]["frame"] for item in items] == [item["files"][0]["mark"] for item in items]
        with runtime.new_client("tools") as other:
            contents = [other.get(f"/runs/film/files/{item['files'][0]['name']}").content for item in items]
    assert contents == [bytes([number]) * 4 for number in range(3)]


def test_a_retained_list_announces_the_files_of_all_items(runtime):
    with runtime.new_client("tools") as client:
        client.post("/tools/frames", json={"n": 2}, headers={"X-Run-Id": "list", **RETAIN})
        document = client.get("/runs/list").json()
        assert [item["frame"] for item in document["result"]] == [file["mark"] for file in document["files"]]
        assert client.get("/runs/list/files/frame-2.bin").content == b"\1\1\1\1"


def test_parts_stay_in_their_items(runtime):
    lines = [json.loads(line) for line in runtime.run("parts").text.splitlines()]
    assert lines[:2] == [{"event": "item", "data": "YWI="}, {"event": "item", "data": "Y2Q="}]


def test_a_result_that_is_refused_gives_no_file(runtime):
    answer = runtime.post("breaks", json={}, headers={"X-Run-Id": "broken"})
    assert (answer.status_code, answer.json()["kind"]) == (500, "invalid_output")
    assert "files" not in answer.json()


@pytest.mark.parametrize(
    ("tool", "arguments", "phrase"),
    [("leaves", {}, "not in the scratch folder"), ("gives", {"size": 1_000_001}, "`limits.output`")],
)
def test_what_cannot_be_given_is_invalid_output(runtime, tool, arguments, phrase):
    answer = runtime.run(tool, **arguments)
    assert (answer.status_code, answer.json()["kind"]) == (500, "invalid_output")
    assert phrase in answer.json()["error"]
