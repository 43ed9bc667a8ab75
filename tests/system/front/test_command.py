"""`orchestrator front`: a process of its own."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.harness import Harness
from support.real_runtime import RealRuntime
from support.waiting import PATIENCE

COMMAND = [sys.executable, "-m", "orchestrator", "front"]
MIB = 1024 * 1024
SOURCE = """
    from pathlib import Path
    from plugin_runtime import tool

    class Plugin:
        def validate(self): pass

        @tool
        def size(self, data: Path) -> int:
            return data.stat().st_size
"""


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    return kept | {f"ORCHESTRATOR_{name}": text for name, text in {"STATE_DIR": f"{tmp_path}/f", **settings}.items()}


class Front:
    """A front's process over one host, and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    @property
    def memory(self) -> int:
        """Bytes that are its own."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


@asynccontextmanager
async def front_over(harness: Harness, tmp_path: Path, **settings: str) -> AsyncIterator[Front]:
    """Over the open harness, once it knows it."""
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(f"- {{name: here, address: '{harness.address}'}}\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = environment(tmp_path, PORT=str(port), **settings)
    process = subprocess.Popen([*COMMAND, "--hosts", str(hosts)], env=variables, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address, trust_env=False, verify=False, timeout=60) as client:
            async with asyncio.timeout(20 * PATIENCE):
                while not await _answers(client):
                    await asyncio.sleep(0.05)
            yield Front(process, client)
    finally:
        process.kill()
        process.wait()


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
async def test_it_answers_until_sigterm_and_then_what_is_under_way(harness: Harness, tmp_path: Path) -> None:
    """New runs are refused, health goes on, the run in flight is answered, and the host does not notice."""
    go_on = asyncio.Event()

    async def wait() -> int:
        await go_on.wait()
        return 7

    harness.add("reader", tools={"wait": wait})
    await harness.open(direct=True)
    await harness.settled("reader")
    async with front_over(harness, tmp_path) as front:
        run = asyncio.create_task(front.client.post("/v1/plugins/reader/tools/wait/run", json={}))
        await harness.until("reader", lambda health: health["in_flight"] == 1)
        front.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while (await front.client.get("/readyz")).json()["status"] != "stopping":
                await asyncio.sleep(0.02)
        refused = await front.client.post("/v1/plugins/reader/tools/wait/run", json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "is stopping" in refused.json()["error"]
        assert (await front.client.get("/v1/plugins")).json()[0]["in_flight"] == 1
        go_on.set()
        assert (await run).json()["result"] == 7
        assert await asyncio.to_thread(front.process.wait, 10) == 0
    assert (await harness.health("reader"))["state"] == "RUNNING"


@pytest.mark.slow
async def test_uploads_pass_without_being_held(harness: Harness, tmp_path: Path) -> None:
    """Four at once of 48 MiB: the front grows by less than a third of one."""
    harness.add("reader", program=RealRuntime(SOURCE), concurrency=4)
    await harness.open(direct=True)
    await harness.settled("reader")

    async def body() -> AsyncIterator[bytes]:
        for _ in range(48):
            yield b"x" * MIB

    async with front_over(harness, tmp_path) as front:
        headers = {"Content-Type": "application/octet-stream"}

        async def upload(length: dict[str, str]) -> int:
            path = "/v1/plugins/reader/tools/size/run"
            answer = await front.client.post(path, content=body(), headers={**headers, **length})
            assert answer.status_code == 200, answer.text
            size: int = answer.json()["result"]
            return size

        assert await upload({}) == 48 * MIB
        before, peak = front.memory, 0
        uploads = [asyncio.create_task(upload(each)) for each in ({}, {"Content-Length": str(48 * MIB)}) * 2]
        while not all(each.done() for each in uploads):
            peak = max(peak, front.memory)
            await asyncio.sleep(0.01)
        assert {each.result() for each in uploads} == {48 * MIB}
        assert peak - before < 16 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "expected a file"),
        ("- {name: a, address: 'http://a', port: 7}\n", "line 1: port: unknown field"),
        ("- {name: a, address: 'http://a', key_file: nowhere}\n", "cannot be read: No such file or directory"),
        ("- {name: a, address: 'https://a', ca_file: nowhere}\n", "cannot be used: No such file or directory"),
    ],
)
def test_what_is_wrong_ends_the_start_with_one_line(tmp_path: Path, content: str | None, sentence: str) -> None:
    """No traceback."""
    hosts = tmp_path / "hosts.yaml"
    if content is not None:
        hosts.write_text(content)
    variables = environment(tmp_path, PORT="0")
    ended = subprocess.run([*COMMAND, "--hosts", hosts], env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    said = " ".join(ended.stderr.split())
    assert sentence in said and "Traceback" not in said


@pytest.mark.slow
def test_beyond_loopback_it_needs_a_key(tmp_path: Path) -> None:
    """As an orchestrator does."""
    (tmp_path / "hosts.yaml").write_text("- {name: a, address: 'http://127.0.0.1:1'}\n")
    variables = environment(tmp_path, PORT="0", HOST="0.0.0.0")
    command = [*COMMAND, "--hosts", str(tmp_path / "hosts.yaml")]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert "there is no API key" in " ".join(ended.stderr.split())


@pytest.mark.slow
async def test_a_change_of_its_file_counts_while_it_serves(harness: Harness, tmp_path: Path) -> None:
    """Also after one that cannot be used, during which the hosts stay."""
    harness.add("reader", tools={"read": lambda: 1})
    await harness.open(direct=True)
    await harness.settled("reader")
    hosts = tmp_path / "hosts.yaml"

    async with front_over(harness, tmp_path) as front:

        async def names() -> list[str]:
            return [host["name"] for host in (await front.client.get("/v1/hosts")).json()]

        text = hosts.read_text()
        hosts.write_text("- {name: here}\n")
        await asyncio.sleep(2.5)
        assert await names() == ["here"]
        hosts.write_text(text + "- {name: there, address: 'http://127.0.0.1:1'}\n")
        async with asyncio.timeout(10 * PATIENCE):
            while await names() != ["here", "there"]:
                await asyncio.sleep(0.1)
        assert (await front.client.post("/v1/plugins/reader/tools/read/run", json={})).json()["result"] == 1
