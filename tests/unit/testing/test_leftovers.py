"""What a killed test process has left is found by its owner, and nobody else's is touched."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.testing.leftovers import LABEL, OWNER, is_alive, owner_of, remove_leftovers, remove_session


@pytest.fixture
def dead() -> str:
    """The owner of a process that has ended."""
    process = subprocess.Popen(["sleep", "60"])
    owner = owner_of(process.pid)
    assert is_alive(owner)
    process.kill()
    process.wait()
    return owner


def test_this_process_is_alive() -> None:
    assert is_alive(owner_of(os.getpid()))


def test_a_killed_one_is_not(dead: str) -> None:
    assert not is_alive(dead)


def test_another_process_with_its_number_is_not_taken_for_it() -> None:
    place, pid, started = owner_of(os.getpid()).rsplit("/", 2)
    assert not is_alive(f"{place}/{pid}/{int(started) - 1}")


@pytest.mark.parametrize("owner", ["other-machine/4026531836/17/300", "", "nonsense", f"{os.uname().nodename}//"])
def test_one_that_cannot_be_seen_from_here_may_be_alive(owner: str) -> None:
    """On another machine, in another container."""
    assert is_alive(owner)


def hide_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc mounted with `hidepid` hides those of other users."""
    read_text = Path.read_text

    def read_visible(path: Path, **how: Any) -> str:
        if path.name == "stat":
            raise FileNotFoundError(path)
        return read_text(path, **how)

    monkeypatch.setattr(Path, "read_text", read_visible)


def test_one_that_is_hidden_is_alive(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    """Another user's on the same machine: nothing of it is removed as long as it is there."""
    owner = owner_of(os.getpid())
    hide_processes(monkeypatch)
    assert is_alive(owner)
    assert not is_alive(dead)


def test_one_that_could_not_see_itself_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks."""
    with monkeypatch.context() as hidden:
        hide_processes(hidden)
        owner = owner_of(os.getpid())
    assert is_alive(owner)


def test_a_number_that_no_process_can_have_is_dead() -> None:
    place = owner_of(os.getpid()).rsplit("/", 2)[0]
    assert not is_alive(f"{place}/{10**30}/5")


class Engine:
    """Containers and volumes by their labels, as testcontainers' client shows them."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, str]] = {}
        self.log: list[str] = []
        self.client = SimpleNamespace(
            containers=SimpleNamespace(list=lambda **query: self._list("container", **query)),
            volumes=SimpleNamespace(list=lambda **query: self._list("volume", **query)),
        )

    def _list(self, kind: str, *, filters: dict[str, str], **_: Any) -> list[Any]:
        wanted, equals, value = filters["label"].partition("=")
        return [
            SimpleNamespace(
                name=name,
                labels=labels,
                attrs={"Labels": labels},
                stop=lambda timeout, name=name: self.log.append(f"stop {name}"),
                remove=lambda name=name, **_: (self.log.append(f"remove {name}"), self.there.pop(name))[0],
            )
            for name, labels in self.there.items()
            if name.startswith(kind) and wanted in labels and (not equals or labels[wanted] == value)
        ]


def test_only_what_the_dead_have_left_is_removed(dead: str) -> None:
    engine, here = Engine(), owner_of(os.getpid())
    for name, owner in {"container-a": dead, "container-b": here, "volume-a": dead, "volume-b": here}.items():
        engine.there[name] = {OWNER: owner}
    engine.there["container-of-somebody"] = {}
    assert remove_leftovers(engine) == ["container-a", "volume-a"]  # type: ignore[arg-type]
    assert sorted(engine.there) == ["container-b", "container-of-somebody", "volume-b"]


def test_a_sessions_orchestrator_is_stopped_before_its_plugins_are_removed() -> None:
    """It ends their runs, and their post-mortems say so."""
    engine = Engine()
    engine.there = {
        "container-plugin": {LABEL: "1", "plugin-orchestrator.plugin": "ocr"},
        "container-orchestrator": {LABEL: "1"},
        "container-other": {LABEL: "2"},
        "volume-1": {LABEL: "1"},
    }
    remove_session(engine, "1")  # type: ignore[arg-type]
    assert engine.log[:2] == ["stop container-orchestrator", "remove container-orchestrator"]
    assert list(engine.there) == ["container-other"]
