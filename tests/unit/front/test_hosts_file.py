"""hosts.yaml: what it may hold, and what is said of what it may not."""

from pathlib import Path

import pytest

from orchestrator.front.hosts_file import HostsFileError, read_hosts_file


def written(folder: Path, text: str) -> Path:
    file = folder / "hosts.yaml"
    file.write_text(text)
    return file


def test_hosts_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Paths are beside the file; numbers and truths are texts as labels."""
    (tmp_path / "key").write_text("a-key-of-at-least-32-characters-0123456789\n")
    file = written(
        tmp_path,
        "- {name: gpu-2, address: 'https://10.0.0.2:8000/', key_file: key, ca_file: /etc/ca.pem}\n"
        "- {name: gpu-1, address: 'http://10.0.0.1:8000/plugins', labels: {rack: 7, spot: true, zone: a}}\n",
    )
    second, first = read_hosts_file(file).hosts
    assert (second.name, second.address, second.key_file) == ("gpu-2", "https://10.0.0.2:8000", tmp_path / "key")
    assert (second.ca_file, second.base_path) == (Path("/etc/ca.pem"), "")
    assert second.key() == "a-key-of-at-least-32-characters-0123456789"
    assert (first.base_path, first.key()) == ("/plugins", None)
    assert first.labels == {"rack": "7", "spot": "true", "zone": "a"}


GOOD = "- {name: gpu-1, address: 'http://10.0.0.1:8000'}\n"
WRONG = {
    "hosts: []": "expected a list of hosts",
    "[]": "expected a list of hosts",
    "- [": "is not valid YAML in line 2",
    f"{GOOD}- {{name: gpu-2}}": "line 2: address: required field is missing",
    f"{GOOD}- {{name: gpu-2, address: 'http://b', port: 1}}": "line 2: port: unknown field",
    f"{GOOD}- 7": "line 2: the host:",
    "- {name: GPU_1, address: 'http://a'}": "expected lower-case letters, digits and hyphens",
    "- {name: a, address: 10.0.0.1}": "expected an address such as https://10.0.0.7:8000",
    "- {name: a, address: 'http://a:99999'}": "expected an address such as",
    "- {name: a, address: 'http://user:secret@a'}": "expected an address without a user",
    "- {name: a, address: 'http://a/x y'}": "expected a path such as /plugins",
    "- {name: a, address: 'http://a', ca_file: ca.pem}": "ca_file: expected only beside an https address",
    f"{GOOD}- {{name: gpu-1, address: 'http://b'}}": "line 1: name: another host has 'gpu-1' too",
    f"{GOOD}- {{name: gpu-2, address: 'http://10.0.0.1:8000'}}": "another host has 'http://10.0.0.1:8000' too",
    "- {name: a, address: 'http://a', labels: {'a b': c}}": "labels",
}


@pytest.mark.parametrize("text", WRONG, ids=[sentence[:30] for sentence in WRONG.values()])
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str) -> None:
    """An operator finds it without reading code; no password is repeated."""
    with pytest.raises(HostsFileError) as raised:
        read_hosts_file(written(tmp_path, text))
    assert WRONG[text] in str(raised.value)
    assert str(tmp_path / "hosts.yaml") in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostsFileError, match="expected a file"):
        read_hosts_file(tmp_path / "hosts.yaml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "No such file"), (b"", "holds no API key"), (b"two words", "holds no API key"), (b"\xff", "ASCII")],
)
def test_a_key_that_is_none(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    (host,) = read_hosts_file(written(tmp_path, "- {name: a, address: 'http://a', key_file: key}")).hosts
    with pytest.raises(HostsFileError, match=sentence):
        host.key()
