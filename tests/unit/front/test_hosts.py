"""The list of a front's hosts: what a change of hosts.yaml leaves as it is. No host is called."""

from pathlib import Path

import pytest

from orchestrator.access import delegation
from orchestrator.access.principal import ANYONE
from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostEntry, HostsFileError


def entry(name: str, **fields: object) -> HostEntry:
    return HostEntry.model_validate({"name": name, "address": f"http://127.0.0.1:1/{name}", **fields})


def key_sent(hosts: Hosts, host: str) -> str:
    head = hosts.link(host).head("GET", b"/", (), ANYONE, length=0).decode().lower()
    assert delegation.HEADER in head
    return next((line.partition("bearer ")[2] for line in head.split("\r\n") if "bearer" in line), "")


async def test_another_label_or_key_leaves_the_connections(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("first")
    (tmp_path / "two").write_text("second")
    hosts = Hosts([entry("a", key_file=tmp_path / "one"), entry("b")])
    link, since = hosts.link("a"), hosts.directory.hosts["a"].status.since
    await hosts.update([entry("b"), entry("a", key_file=tmp_path / "two", labels={"spot": "true"})])
    assert hosts.link("a") is link
    assert hosts.names == ["b", "a"]
    assert (hosts.directory.hosts["a"].labels, hosts.directory.hosts["a"].status.since) == ({"spot": "true"}, since)
    assert key_sent(hosts, "a") == "second"


@pytest.mark.parametrize(
    "other", [{"address": "http://127.0.0.1:2"}, {"address": "https://127.0.0.1:1/a"}], ids=["port", "scheme"]
)
async def test_another_address_is_another_host(other: dict[str, object]) -> None:
    hosts = Hosts([entry("a")])
    link = hosts.link("a")
    await hosts.update([entry("a", **other)])
    assert hosts.link("a") is not link
    assert hosts.directory.hosts["a"].address == other["address"]


async def test_a_refused_list_changes_nothing(tmp_path: Path) -> None:
    """Neither keys that could be read nor which hosts were forgotten."""
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    before = [entry(name, key_file=tmp_path / file) for name, file in (("a", "one"), ("b", "two"), ("c", "three"))]
    hosts = Hosts(before)
    await hosts.forget("c")
    (tmp_path / "one").write_text("another")
    (tmp_path / "two").unlink()
    relabelled = [entry("a", key_file=tmp_path / "one", labels={"rack": "7"}), before[1]]
    with pytest.raises(HostsFileError, match="cannot be read"):
        await hosts.update(relabelled)  # without c
    assert (key_sent(hosts, "a"), key_sent(hosts, "b")) == ("one", "two")
    assert hosts.directory.hosts["a"].labels == {}
    (tmp_path / "two").write_text("two")
    await hosts.update(before)
    assert hosts.names == ["a", "b"], "c is still forgotten"
    assert key_sent(hosts, "a") == "another"


async def test_a_host_is_forgotten_whatever_its_key_file_has(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("one")
    hosts = Hosts([entry("a", key_file=tmp_path / "key"), entry("b", key_file=tmp_path / "key")])
    (tmp_path / "key").unlink()
    await hosts.forget("b")
    assert hosts.names == ["a"]
