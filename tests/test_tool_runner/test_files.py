"""Files that runs give: in the envelope, by their own URL, as the answer itself, and removed with the result."""

import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from support.harness import Harness, eventually
from support.real_runtime import RealRuntime
from test_tool_runner.callers import RUN_ID, executing, killed, result

pytestmark = pytest.mark.slow

SOURCE = """
    import os, time
    from pathlib import Path
    from PIL import Image
    from plugin_runtime import File, Progress, tool

    SCRATCH = Path(os.environ["PLUGIN_SCRATCH_DIR"])

    def there(file):
        while file and not Path(file).exists():
            time.sleep(0.005)

    class Plugin:
        def validate(self):
            SCRATCH.mkdir(exist_ok=True)

        @tool
        def picture(self) -> dict[str, object]:
            return {"overlay": Image.new("RGB", (4, 3), "red"), "boxes": 2}

        @tool
        def report(self, html: str = "<script>alert(1)</script>", media_type: str = "text/html") -> File:
            return File(html.encode(), media_type, "report")

        @tool
        def table(self, rows: int = 3, until: str = "") -> File:
            path = SCRATCH / "table.csv"
            with path.open("w") as file:
                for row in range(rows):
                    file.write(f"{row},{row * row}\\n")
            there(until)
            return File(path)

        @tool
        def frames(self, n: int = 2, until: str = "") -> object:
            for number in range(n):
                yield Progress(number / n)
                yield {"frame": bytes([number]) * 10}
            there(until)

        @tool
        def fails(self) -> object:
            yield File(b"x", name="seen.txt")
            raise ZeroDivisionError

        @tool
        def none(self) -> int:
            return 1

        @tool
        def forges(self) -> dict[str, object]:
            url = "/v1/runs/x/files/a.png"
            return {"file": "a.png", "media_type": "image/png", "size": 1, "sha256": "0" * 64, "url": url}
"""


@pytest.fixture
async def giver(tmp_path: Path) -> AsyncIterator[Harness]:
    """Not yet open."""
    async with Harness(tmp_path) as harness:
        harness.add("giver", program=RealRuntime(SOURCE), failure_policy="tolerant", limits={"output": "1MiB"})
        yield harness


async def opened(harness: Harness) -> httpx.AsyncClient:
    """A client once the plugin is ready; it imports PIL, which may take a while on a busy machine."""
    client = await harness.open()
    client.timeout = 60
    await harness.until("giver", lambda health: health["state"] != "LOADED", timeout=60)
    return client


@pytest.fixture
async def client(giver: Harness) -> httpx.AsyncClient:
    return await opened(giver)


async def call(client: httpx.AsyncClient, tool: str, accept: str = "", **arguments: Any) -> httpx.Response:
    headers = {"Accept": accept} if accept else {}
    return await client.post(f"/v1/plugins/giver/tools/{tool}/run", json=arguments, headers=headers)


def results(harness: Harness) -> Path:
    return harness.settings.state_dir / "results"


def names(harness: Harness) -> list[str]:
    return sorted(path.name for path in results(harness).rglob("*"))


async def test_a_file_is_a_reference_in_the_result_and_in_the_envelope(client: httpx.AsyncClient) -> None:
    envelope = (await call(client, "picture")).json()
    overlay = envelope["result"]["overlay"]
    assert envelope["result"]["boxes"] == 2
    assert envelope["files"] == [overlay]
    assert overlay["url"] == f"/v1/runs/{envelope['run_id']}/files/overlay.png"
    assert set(overlay) == {"file", "media_type", "size", "sha256", "url"}
    answer = await client.get(overlay["url"])
    assert (len(answer.content), hashlib.sha256(answer.content).hexdigest()) == (overlay["size"], overlay["sha256"])
    assert Image.open(io.BytesIO(answer.content)).size == (4, 3)
    stored = await client.get(f"/v1/runs/{envelope['run_id']}/result")
    assert (stored.status_code, stored.json()) == (200, envelope)


async def test_what_only_looks_like_a_reference_is_not_vouched_for(client: httpx.AsyncClient) -> None:
    envelope = (await call(client, "forges")).json()
    assert (envelope["result"]["file"], envelope["files"]) == ("a.png", [])
    assert (await client.get(f"/v1/runs/{envelope['run_id']}/files/a.png")).status_code == 404


async def test_every_envelope_has_a_list_of_files(client: httpx.AsyncClient) -> None:
    for answer in (
        await call(client, "none"),
        await call(client, "nothing"),
        await client.get("/v1/nothing"),
        await client.post("/v1/plugins/nobody/tools/x/run"),
    ):
        assert answer.json()["files"] == []


async def test_headers_say_what_it_is_and_keep_it_from_doing_harm(client: httpx.AsyncClient) -> None:
    overlay = (await call(client, "picture")).json()["files"][0]
    answer = await client.get(overlay["url"])
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["ETag"] == f'"{overlay["sha256"]}"'
    assert answer.headers["Content-Disposition"] == 'inline; filename="overlay.png"'
    assert answer.headers["Content-Length"] == str(overlay["size"])
    for media_type in ("text/html", "image/svg+xml", "application/xhtml+xml", "text/csv"):
        report = (await call(client, "report", media_type=media_type)).json()["files"][0]
        answer = await client.get(report["url"])
        assert answer.headers["Content-Type"] == media_type
        assert answer.headers["Content-Disposition"].startswith("attachment;")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert "sandbox" in policy
        assert "default-src 'none'" in policy


RANGES = [
    ("bytes=0-3", 206, "0,0\n", "bytes 0-3/12"),
    ("bytes=4-", 206, "1,1\n2,4\n", "bytes 4-11/12"),
    ("bytes=-4", 206, "2,4\n", "bytes 8-11/12"),
    ("bytes=12-", 416, None, "bytes */12"),
    ("lines=1-2", 200, "0,0\n1,1\n2,4\n", None),
]


@pytest.mark.parametrize(("wanted", "status", "text", "content_range"), RANGES)
async def test_a_range_of_it_can_be_had(
    client: httpx.AsyncClient, wanted: str, status: int, text: str | None, content_range: str | None
) -> None:
    url = (await call(client, "table")).json()["result"]["url"]
    answer = await client.get(url, headers={"Range": wanted})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    assert text is None or answer.text == text


async def test_a_caller_that_has_it_is_not_sent_it_again(client: httpx.AsyncClient) -> None:
    url = (await call(client, "table")).json()["result"]["url"]
    head = await client.head(url)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "12")
    tag = head.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await client.get(url, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    assert (await client.get(url, headers={"If-None-Match": '"other"'})).status_code == 200
    part = {"Range": "bytes=0-3"}
    assert (await client.get(url, headers={**part, "If-Range": tag})).status_code == 206
    assert (await client.get(url, headers={**part, "If-Range": '"other"'})).text == "0,0\n1,1\n2,4\n"


async def test_what_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    run_id = (await call(client, "table")).json()["run_id"]
    for url, error_type in (
        (f"/v1/runs/{run_id}/files/other", "UnknownFile"),
        (f"/v1/runs/{run_id}/files/..%2F{run_id}", "UnknownRoute"),
        (f"/v1/runs/{run_id}/files/%2e%2e", "UnknownFile"),
        (f"/v1/runs/{RUN_ID}/files/table.csv", "UnknownRun"),
    ):
        answer = await client.get(url)
        assert (answer.status_code, answer.json()["error_type"]) == (404, error_type)


# As the answer itself

ACCEPTED = [
    ("image/png", 200, "image/png"),
    ("image/*", 200, "image/png"),
    ("image/webp, image/*;q=0.5", 200, "image/png"),
    ("image/png, application/json;q=0.9", 200, "image/png"),
    ("image/png, */*;q=0.1", 200, "image/png"),
    ("image/png;q=0.5, application/json", 200, "application/json"),
    ("image/png, application/json", 200, "application/json"),
    ("image/png, */*", 200, "application/json"),
    ("*/*", 200, "application/json"),
    ("", 200, "application/json"),
    ("nonsense", 200, "application/json"),
    ("video/mp4, application/json;q=0.1", 200, "application/json"),
    ("video/mp4", 406, "application/json"),
    ("image/png;q=0", 200, "application/json"),
]


@pytest.mark.parametrize(("accept", "status", "media_type"), ACCEPTED)
async def test_a_caller_that_prefers_its_media_type_gets_the_file(
    client: httpx.AsyncClient, accept: str, status: int, media_type: str
) -> None:
    answer = await call(client, "picture", accept)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, media_type)
    run_id = answer.headers["X-Run-Id"]
    if media_type == "image/png":
        assert Image.open(io.BytesIO(answer.content)).size == (4, 3)
        assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert answer.headers["Content-Location"] == f"/v1/runs/{run_id}/files/overlay.png"
    else:
        assert answer.json()["ok"] is (status == 200)
        assert answer.json()["result"] is not None
        assert answer.json()["files"][0]["url"] == f"/v1/runs/{run_id}/files/overlay.png"


async def test_a_range_of_an_answer_is_not_to_be_had(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/plugins/giver/tools/table/run", json={}, headers={"Accept": "text/csv", "Range": "bytes=0-3"}
    )
    assert (answer.status_code, answer.text) == (200, "0,0\n1,1\n2,4\n")


async def test_one_of_several_is_not_guessed(client: httpx.AsyncClient) -> None:
    answer = await call(client, "frames", "application/octet-stream")
    assert answer.status_code == 406
    assert [file["file"] for file in answer.json()["files"]] == ["frame.bin", "frame-2.bin"]


@pytest.mark.parametrize(("tool", "status"), [("fails", 502), ("nothing", 404)])
async def test_a_run_that_fails_is_answered_with_its_envelope(
    client: httpx.AsyncClient, tool: str, status: int
) -> None:
    answer = await call(client, tool, "image/png")
    assert (answer.status_code, answer.json()["ok"]) == (status, False)


# Streams


async def test_a_file_of_an_item_can_be_fetched_at_once(
    giver: Harness, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """While the run goes on; the last event lists all."""
    go = tmp_path / "go"
    lines = []
    request = client.stream(
        "POST",
        "/v1/plugins/giver/tools/frames/run",
        json={"until": str(go)},
        headers={"Accept": "application/x-ndjson"},
    )
    async with request as stream:
        async for line in stream.aiter_lines():
            event = json.loads(line)
            lines.append(event)
            if event["event"] == "item":
                frame = event["data"]["frame"]
                answer = await client.get(frame["url"])
                assert (answer.status_code, answer.content) == (200, bytes([len(lines) // 2 - 1]) * 10)
            if len(lines) == 4:
                go.touch()
    assert lines[-1]["event"] == "end"
    assert lines[-1]["files"] == [line["data"]["frame"] for line in lines if line["event"] == "item"]
    assert (await client.get(lines[-1]["files"][0]["url"])).status_code == 200


async def test_files_of_a_stream_that_failed_can_still_be_fetched(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/plugins/giver/tools/fails/run", json={}, headers={"Accept": "application/x-ndjson"})
    item, end = [json.loads(line) for line in answer.text.splitlines()]
    assert (end["ok"], end["files"]) == (False, [item["data"]])
    assert (await client.get(item["data"]["url"])).content == b"x"


# How long they are there


async def test_files_are_gone_with_their_result(giver: Harness, client: httpx.AsyncClient) -> None:
    url = (await call(client, "table")).json()["result"]["url"]
    assert (await client.get(url)).status_code == 200
    assert giver.app is not None
    giver.app.state.context.tool_runner.results._max_age = 0
    assert (await client.get(url)).json()["error_type"] == "UnknownFile"
    await eventually(lambda: not names(giver), "the files are removed")


async def test_the_oldest_files_make_room_for_new_ones(tmp_path: Path) -> None:
    """A run that needs more than all of it is answered so, and the plugin is not to blame."""
    async with Harness(tmp_path, results_max_bytes=100_000) as harness:
        harness.add("giver", program=RealRuntime(SOURCE), limits={"output": "1GiB"})
        client = await opened(harness)
        urls = [(await call(client, "table", rows=5000)).json()["result"]["url"] for _ in range(3)]
        statuses = [(await client.get(url)).status_code for url in urls]
        assert statuses == [404, 404, 200]
        over = await call(client, "table", rows=50_000)
        assert (over.status_code, over.json()["error_type"]) == (503, "NotStored")
        assert "ORCHESTRATOR_RESULTS_MAX_BYTES" in over.json()["error"]
        assert (await harness.health("giver"))["state"] == "RUNNING"
        await eventually(lambda: sum("table.csv" in name for name in names(harness)) <= 1, "the others are removed")


async def test_files_over_the_limit_end_the_run(client: httpx.AsyncClient) -> None:
    answer = await call(client, "table", rows=200_000)
    assert (answer.status_code, answer.json()["reason_code"]) == (502, "INVALID_OUTPUT")
    assert "limits.output" in answer.json()["error"]


async def test_a_disk_that_takes_nothing_is_told_as_ours(giver: Harness, client: httpx.AsyncClient) -> None:
    """And the plugin goes on."""
    results(giver).rmdir()
    results(giver).write_text("no folder")
    answer = await call(client, "table")
    assert (answer.status_code, answer.json()["error_type"], answer.json()["reason_code"]) == (503, "NotStored", None)
    assert "The file table.csv of the result cannot be stored" in answer.json()["error"]
    assert str(giver.settings.state_dir) not in answer.text
    results(giver).unlink()
    results(giver).mkdir()
    assert (await call(client, "table")).status_code == 200


async def test_a_file_that_the_disk_has_lost_in_part_is_not_served(giver: Harness, client: httpx.AsyncClient) -> None:
    envelope = (await call(client, "table")).json()
    (results(giver) / f"{envelope['run_id']}.files" / "table.csv").write_text("0,0")
    answer = await client.get(envelope["result"]["url"])
    assert (answer.status_code, answer.json()["error_type"]) == (404, "UnknownFile")


async def test_a_run_without_result_leaves_nothing(giver: Harness, client: httpx.AsyncClient) -> None:
    for tool in ("none", "nothing"):
        await call(client, tool)
    assert names(giver) == []


async def test_files_of_an_asynchronous_run_outlive_the_orchestrator(giver: Harness, tmp_path: Path) -> None:
    """Of one that ended before, and of one that goes on meanwhile in its container."""
    await opened(giver)
    go = tmp_path / "go"
    ended = (await result(giver, (await start_giver(giver, "table", rows=3)).json()["run_id"])).json()
    running = (await start_giver(giver, "table", rows=4, until=str(go))).json()["run_id"]
    await executing(giver, running, "giver")
    await killed(giver)
    # What a kill may leave: a file half written, and files whose result was not yet stored.
    orphan = results(giver) / f"{RUN_ID}.files"
    orphan.mkdir()
    (orphan / "a.png").write_bytes(b"x")
    half = results(giver) / f"{running}.files"
    half.mkdir()
    (half / ".part").write_bytes(b"0,")
    client = await opened(giver)
    assert not orphan.exists()
    assert (await client.get(ended["result"]["url"])).text == "0,0\n1,1\n2,4\n"
    assert (await client.get(f"/v1/runs/{running}/files/table.csv")).status_code == 404
    go.touch()
    late = (await result(giver, running)).json()
    assert late["files"] == [late["result"]]
    assert (await client.get(late["result"]["url"])).text == "0,0\n1,1\n2,4\n3,9\n"


async def start_giver(harness: Harness, tool: str, **arguments: Any) -> httpx.Response:
    return await harness.client.post(
        f"/v1/plugins/giver/tools/{tool}/run", json=arguments, headers={"Prefer": "respond-async"}
    )


async def test_a_result_that_is_stored_between_two_looks_is_found(giver: Harness, client: httpx.AsyncClient) -> None:
    """The run ends after its result was looked for, and before its state is."""
    assert giver.app is not None
    store = giver.app.state.context.tool_runner.results
    run_id = (await start_giver(giver, "none")).json()["run_id"]
    await result(giver, run_id)
    find, looks = store.find, []

    async def find_late(wanted: str) -> Any:
        looks.append(wanted)
        return None if len(looks) == 1 else await find(wanted)

    store.find = find_late
    answer = await client.get(f"/v1/runs/{run_id}/result")
    assert (answer.status_code, answer.json()["result"], len(looks)) == (200, 1, 2)
