"""hosts.yaml while the front serves: what joins, what leaves, and a file that cannot be used."""

import asyncio
from pathlib import Path

import pytest
import yaml
from support.harness import eventually

from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry, read_hosts_file
from orchestrator.front.hosts_file_watch import difference, following


def entry(name: str, port: int = 0) -> HostEntry:
    """Nothing answers there."""
    return HostEntry(name=name, address=f"http://127.0.0.1:{port or ord(name)}")


def write(file: Path, *entries: HostEntry) -> None:
    file.write_text(yaml.safe_dump([each.model_dump(include={"name", "address"}) for each in entries]))


def test_what_makes_one_list_the_other() -> None:
    change = difference([entry("a"), entry("b"), entry("c")], [entry("b", 2), entry("c"), entry("d")])
    assert (change.added, change.removed, change.changed) == ((entry("d"),), ("a",), (entry("b", 2),))


async def test_hosts_join_and_leave_with_the_file(tmp_path: Path) -> None:
    """A host that has not changed keeps what is known of it."""
    file = tmp_path / "hosts.yaml"
    write(file, entry("a"), entry("b"))
    hosts = Hosts(read_hosts_file(file).hosts)
    async with hosts.running(), following(file, hosts, 0.02):
        stays = hosts.link("b")
        write(file, entry("b"), entry("c"))
        await eventually(lambda: set(hosts.names) == {"b", "c"}, "a has left, c has joined")
        assert hosts.link("b") is stays
        assert set(hosts.directory.hosts) == {"b", "c"}


async def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so once."""
    file = tmp_path / "hosts.yaml"
    write(file, entry("a"))
    hosts = Hosts(read_hosts_file(file).hosts)
    async with hosts.running(), following(file, hosts, 0.02):
        file.write_text("- nam: b")
        await eventually(lambda: "cannot be used" in caplog.text, "it is logged")
        await asyncio.sleep(0.1)
        assert caplog.text.count("cannot be used") == 1
        assert hosts.names == ["a"]
        write(file, entry("a"), entry("b"))
        await eventually(lambda: hosts.names == ["a", "b"], "b has joined")


async def test_a_forgotten_host_stays_forgotten(tmp_path: Path) -> None:
    """Until the file changes what it says of it."""
    file = tmp_path / "hosts.yaml"
    write(file, entry("a"), entry("b"))
    hosts = Hosts(read_hosts_file(file).hosts)
    async with hosts.running(), following(file, hosts, 0.02):
        await hosts.forget("b")
        await asyncio.sleep(0.1)
        assert hosts.names == ["a"]
        write(file, entry("a"))
        await asyncio.sleep(0.1)
        write(file, entry("a"), entry("b"))
        await eventually(lambda: hosts.names == ["a", "b"], "b has joined again")
