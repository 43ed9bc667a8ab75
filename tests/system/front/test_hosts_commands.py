"""`orchestrator hosts`, `move` and `explain NAME`, and the same by the client, against a front."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.harness import eventually
from support.host_cluster import HostCluster
from typer.testing import CliRunner

from orchestrator.cli import commands, console
from orchestrator.client import AsyncClient, CommandRefused
from orchestrator.front.host_state import HostState
from orchestrator.front.hosts_file import read_hosts_file

pytestmark = pytest.mark.one_host
Command = Callable[..., Awaitable[Result]]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[HostCluster]:
    async with HostCluster(tmp_path, "gpu-1", "gpu-2") as found:
        found.labels = {"gpu-1": {"rack": "7"}}
        found.add("reader")
        found.add("bound", placement={"requires": {"label.rack": "7"}})
        yield found


@pytest.fixture
async def command(cluster: HostCluster, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Against the open cluster's front."""
    client = await cluster.open()
    monkeypatch.setenv("ORCHESTRATOR_URL", str(client.base_url))
    for output in (console.console, console.errors):
        monkeypatch.setattr(output, "width", 200)

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, commands.command_line(arguments[0]), list(arguments))

    return run


async def test_an_operator_moves_and_drains(cluster: HostCluster, command: Command) -> None:
    for name in ("reader", "bound"):
        assert (await command("start", name)).exit_code == 0
    (source,) = await cluster.serving("reader")
    to = next(name for name in cluster.harnesses if name != source)
    moved = await command("move", "reader", "--to", to)
    assert moved.exit_code == 0 and "INITIALIZED" in moved.output, moved.output
    assert await cluster.serving("reader") == [to]
    await command("move", "reader", "--to", "gpu-1")
    drained = await command("hosts", "drain", "gpu-1")
    assert drained.exit_code == 1  # something stays
    assert "reader serves on gpu-2" in drained.output
    assert "bound: stays on gpu-1" in drained.stderr and "gpu-2 has no label rack" in drained.stderr
    listed = await command("hosts", "list")
    assert listed.exit_code == 0
    assert [line.split()[:3] for line in listed.output.splitlines()[1:]] == [
        ["gpu-1", "DRAINING", "2"],
        ["gpu-2", "ONLINE", "2"],
    ]
    assert (await command("hosts", "resume", "gpu-1")).exit_code == 0


async def test_explain_says_why_a_plugin_is_where_it_is(cluster: HostCluster, command: Command) -> None:
    """Of a name that is neither a plugin nor a code, what it does for a code."""
    explained = await command("explain", "bound")
    assert explained.exit_code == 0, explained.output
    rows = {line.split()[0]: line for line in explained.output.splitlines()[1:]}
    assert "FITS" in rows["gpu-1"]
    assert "LABEL_DIFFERS" in rows["gpu-2"]
    assert "bound requires label.rack: 7, and gpu-2 has no label rack." in rows["gpu-2"]
    programs = json.loads((await command("explain", "bound", "--json")).output)
    assert [each["rule"] for each in programs["hosts"]] == ["FITS", "LABEL_DIFFERS"]
    assert (await command("explain", "queue-full")).exit_code == 0
    assert (await command("explain", "nothing-of-this-name")).exit_code == 2


async def test_a_plugin_of_a_single_orchestrator_has_no_placement(
    cluster: HostCluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_URL", cluster.harnesses["gpu-1"].address)
    explained = await command("explain", "reader")
    assert explained.exit_code == 2 and "no hosts to choose from" in explained.stderr


async def test_added_hosts_are_lines_of_the_file(tmp_path: Path, command: Command) -> None:
    added = await command(
        "hosts", "add", "gpu-3", "https://10.0.0.9:8000", "--key-file", "keys/gpu-3", "--ca-file", "ca.pem",
        "--label", "rack=7",
    )  # fmt: skip
    file = tmp_path / "hosts.yaml"
    file.write_text(added.stdout)
    (entry,) = read_hosts_file(file).hosts
    assert (entry.name, entry.labels, entry.key_file) == ("gpu-3", {"rack": "7"}, tmp_path / "keys" / "gpu-3")
    assert (await command("hosts", "add", "gpu-3", "https://h", "--label", "rack")).exit_code == 2


async def test_the_client_has_the_same(cluster: HostCluster) -> None:
    front = await cluster.open()
    async with AsyncClient(str(front.base_url)) as client:
        await client.start("reader")
        (source,) = await cluster.serving("reader")
        to = next(name for name in cluster.harnesses if name != source)
        assert {host["name"] for host in await client.hosts()} == {"gpu-1", "gpu-2"}
        assert (await client.move("reader", to))["host"] == to
        with pytest.raises(CommandRefused, match="does not serve on"):
            await client.move("reader", to, source=source)
        placement = await client.placement("reader")
        assert {each["host"] for each in placement["hosts"] if each["chosen"]} == {to}
        drained = await client.drain_host(to)
        assert drained["moved"] == [{"plugin": "reader", "to": source}]
        await client.resume_host(to)
        cluster.links[to].cut()
        await eventually(lambda: cluster.known(to).status.state is HostState.STALE, "it is stale")
        assert "hosts.yaml" in (await client.forget_host(to))["notice"]
