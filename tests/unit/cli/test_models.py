"""`orchestrator models`: what is fetched, what is shown, and what is never removed."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from rich.console import Console
from support.file_server import FileServer, cut_after, instead, status
from typer.testing import CliRunner

from orchestrator import app
from orchestrator.cli import commands, console, models, pull_display
from orchestrator.containers.spec import ContainerStatus
from orchestrator.errors import EngineUnreachableError
from orchestrator.models import plan
from orchestrator.models.pull import Progress, Puller
from orchestrator.models.store import ModelStore

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = b"other" * 10
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()


@dataclass
class Machine:
    """A folder of plugins, a folder of models, and the command line."""

    folder: Path
    plugins: Path = field(init=False)
    models: Path = field(init=False)
    store: ModelStore = field(init=False)

    def __post_init__(self) -> None:
        self.plugins, self.models = self.folder / "plugins", self.folder / "models"
        self.store = ModelStore(self.models / ".store")
        self.plugins.mkdir()
        self.models.mkdir()

    def plugin(self, name: str, **models: Any) -> None:
        manifest = {"version": "1", "description": "Reads.", "entrypoint": "r.p:R", "models": models}
        (self.plugins / name).mkdir(exist_ok=True)
        (self.plugins / name / "plugin.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))

    def stored(self, content: bytes) -> Path:
        sha256 = hashlib.sha256(content).hexdigest()
        partial = self.store.open_partial(sha256)
        assert partial is not None
        with partial:
            partial.append(content)
            partial.publish()
        path = self.store.find(sha256)
        assert path is not None
        return path

    def at_path(self, plugin: str, path: str, content: bytes) -> Path:
        file = self.models / plugin / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(commands.command_line("models"), ["models", *arguments])

    def listed(self, *arguments: str) -> Any:
        return json.loads(self.call(*arguments, "--json").stdout)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", str(made.plugins))
    monkeypatch.setenv("ORCHESTRATOR_MODELS_DIR", str(made.models))
    monkeypatch.setenv("ORCHESTRATOR_STATE_DIR", str(tmp_path / "state"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for output in (console.console, console.errors):
        monkeypatch.setattr(output, "width", 400)
    return made


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(CONTENT) as server:
        yield server


def fetched(server: FileServer, sha256: str = SHA256) -> dict[str, Any]:
    return {"path": "m/weights.onnx", "from": [server.url], "sha256": sha256}


# pull


def test_pull_fetches_and_says_what_to_do_next(machine: Machine, server: FileServer) -> None:
    """For all plugins, a shared file once; the next time there is nothing to do."""
    machine.plugin("reader", weights=fetched(server), labels="labels.txt")
    machine.plugin("writer", same=fetched(server))
    result = machine.call("pull")
    assert result.exit_code == 0, result.stderr
    assert "reader: weights.onnx is fetched (10 KiB)" in result.stderr
    assert "`orchestrator start reader`" in result.stderr and "`orchestrator start writer`" in result.stderr
    assert result.stdout == "" and len(server.requests) == 1
    again = machine.call("pull")
    assert again.exit_code == 0 and "is here already" in again.stderr and "start" not in again.stderr


def test_pull_fetches_the_named_plugins_alone(machine: Machine, server: FileServer) -> None:
    machine.plugin("reader", weights=fetched(server))
    machine.plugin("writer", weights=fetched(server, OTHER_SHA256))
    assert machine.call("pull", "reader").exit_code == 0
    unknown = machine.call("pull", "nobody")
    assert unknown.exit_code == 1 and "No plugin named nobody. Plugins: reader, writer." in unknown.stderr


def test_what_cannot_be_fetched_keeps_nothing_else_back(machine: Machine, server: FileServer) -> None:
    """Exit code 1, the reason, and no advice to start what still misses a file."""
    with FileServer(OTHER) as second:
        server.default = status(404)
        machine.plugin("reader", weights=fetched(server), more=fetched(second, OTHER_SHA256))
        machine.plugin("writer", weights=fetched(second, OTHER_SHA256))
        result = machine.call("pull")
    assert result.exit_code == 1
    assert "it has no such file (404)" in result.stderr and machine.store.find(OTHER_SHA256) is not None
    assert "start writer" in result.stderr and "start reader" not in result.stderr


def test_wrong_bytes_are_told_with_both_hashes(machine: Machine, server: FileServer) -> None:
    server.default = instead(OTHER)
    machine.plugin("reader", weights=fetched(server))
    result = machine.call("pull")
    assert result.exit_code == 1 and SHA256 in result.stderr and OTHER_SHA256 in result.stderr
    assert machine.store.files() == []


def test_pull_prints_json_alone_on_stdout(machine: Machine, server: FileServer) -> None:
    server.next(status(404))
    machine.plugin("reader", weights=fetched(server))
    (failed,) = machine.listed("pull")
    assert failed["outcome"] == "failed" and "404" in failed["error"]
    (found,) = machine.listed("pull")
    assert found == {
        "file": "weights.onnx", "sha256": SHA256, "plugins": ["reader"], "outcome": "fetched", "size": len(CONTENT),
        "error": None,
    }  # fmt: skip


def test_a_right_file_at_its_path_is_not_fetched(machine: Machine, server: FileServer) -> None:
    """A wrong one is told, and the fetched one used instead."""
    machine.plugin("reader", weights=fetched(server))
    place = machine.at_path("reader", "m/weights.onnx", CONTENT)
    assert machine.call("pull").exit_code == 0 and server.requests == []
    place.write_bytes(OTHER)
    result = machine.call("pull")
    assert result.exit_code == 0 and machine.store.find(SHA256) is not None
    assert f"{place} has other bytes (SHA-256 {OTHER_SHA256})" in result.stderr


def test_a_manifest_that_cannot_be_read_is_told(machine: Machine, server: FileServer) -> None:
    """The others' models are fetched all the same."""
    machine.plugin("reader", weights=fetched(server))
    machine.plugin("broken", weights={"path": "w", "from": [server.url]})
    result = machine.call("pull")
    assert result.exit_code == 1 and "`from` needs `sha256`" in result.stderr
    assert machine.store.find(SHA256) is not None
    assert machine.call("pull", "reader").exit_code == 0


@pytest.mark.parametrize("command", ["list", "verify", "pull"])
def test_a_broken_manifest_hides_no_other_and_no_success(machine: Machine, server: FileServer, command: str) -> None:
    """The others are shown, stderr has the fault, and the exit code is 1. With --json, stdout is JSON all the same."""
    machine.plugin("reader", weights=fetched(server))
    machine.stored(CONTENT)
    (machine.plugins / "broken").mkdir()
    (machine.plugins / "broken" / "plugin.yaml").write_text("version: [")
    result = machine.call(command)
    assert result.exit_code == 1 and "broken: " in result.stderr
    assert "reader" in result.stdout + result.stderr.replace("broken", "")
    as_json = machine.call(command, "--json")
    assert as_json.exit_code == 1 and len(json.loads(as_json.stdout)) == 1


@pytest.mark.parametrize("command", ["list", "verify", "pull"])
def test_a_folder_of_plugins_that_cannot_be_read_is_no_success(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", f"{machine.plugins}:{machine.folder}/nowhere")
    result = machine.call(command)
    assert result.exit_code == 1 and "nowhere" in result.stderr and "ORCHESTRATOR_PLUGINS_DIRS" in result.stderr


def test_nothing_to_fetch_is_no_error(machine: Machine) -> None:
    machine.plugin("reader", labels="labels.txt")
    result = machine.call("pull")
    assert result.exit_code == 0 and "Nothing to fetch" in result.stderr


def test_an_interrupted_pull_has_its_exit_code(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Puller, "pull", interrupted)
    machine.plugin("reader", weights={"path": "w", "from": ["file:///w"], "sha256": SHA256})
    assert machine.call("pull").exit_code == 130


def test_a_store_that_cannot_be_written_is_told(machine: Machine, server: FileServer) -> None:
    machine.plugin("reader", weights=fetched(server))
    machine.store.root.touch()
    result = machine.call("pull")
    assert result.exit_code == 1 and "ORCHESTRATOR_MODELS_DIR" in result.stderr


# verify


def test_verify_finds_wrong_files_wherever_they_are(machine: Machine, server: FileServer) -> None:
    """Each with what to do about it; those that are right and those that are missing are no error."""
    machine.plugin("missing", weights=fetched(server, "0" * 64), labels="labels.txt")
    machine.plugin("placed", weights={"path": "w.onnx", "sha256": OTHER_SHA256})
    machine.plugin("reader", weights=fetched(server))
    stored, place = machine.stored(CONTENT), machine.at_path("placed", "w.onnx", OTHER)
    right = machine.call("verify")
    assert right.exit_code == 0, right.stderr
    assert {row["plugin"]: row["state"] for row in machine.listed("verify")} == {
        "missing": "missing", "placed": "right", "reader": "right",
    }  # fmt: skip

    stored.chmod(0o644)
    stored.write_bytes(OTHER)
    place.write_bytes(CONTENT)
    wrong = machine.call("verify")
    assert wrong.exit_code == 1
    assert f"expected SHA-256 {SHA256}, got {OTHER_SHA256}: `orchestrator models verify --remove`" in wrong.stderr
    assert f"remove {place}, or correct `sha256` in plugin.yaml" in wrong.stderr
    assert machine.call("verify", "missing").exit_code == 0

    assert machine.call("verify", "--remove").exit_code == 1
    assert not stored.exists() and place.exists()
    assert machine.call("pull", "reader").exit_code == 0
    assert machine.call("verify", "reader").exit_code == 0


def test_verify_hashes_unused_files_of_the_store_too(machine: Machine) -> None:
    path = machine.stored(CONTENT)
    path.chmod(0o644)
    path.write_bytes(b"")
    assert machine.call("verify").exit_code == 1


# list


def test_list_shows_every_state(machine: Machine, server: FileServer) -> None:
    machine.plugin("a-stored", weights=fetched(server))
    machine.plugin("b-placed", weights="w.onnx", folder="hub")
    machine.plugin("c-partial", weights=fetched(server, "1" * 64))
    machine.plugin("d-missing", weights=fetched(server, "2" * 64), labels="labels.txt")
    machine.stored(CONTENT)
    machine.stored(OTHER)
    machine.at_path("b-placed", "w.onnx", OTHER)
    machine.at_path("b-placed", "hub/a/b", OTHER)
    machine.at_path("b-placed", "hub/c", OTHER)
    partial = machine.store.open_partial("1" * 64)
    assert partial is not None
    with partial:
        partial.begin("https://host/w", "", 100, restart=True)
        partial.append(OTHER)
        rows = machine.listed("list")
    shown = [(row["plugin"], row["model"], row["state"], row["where"], row["size"]) for row in rows]
    assert shown == [
        ("a-stored", "weights", "present", "store", len(CONTENT)),
        ("b-placed", "weights", "present", "path", len(OTHER)),
        ("b-placed", "folder", "present", "path", 2 * len(OTHER)),
        ("c-partial", "weights", "partial", None, len(OTHER)),
        ("d-missing", "weights", "missing", None, None),
        ("d-missing", "labels", "missing", None, None),
        (None, None, "unused", "store", len(OTHER)),
    ]
    text = machine.call("list").stdout
    assert "50 B of 100 B (50 %); `orchestrator models pull` goes on" in text
    assert "`orchestrator models pull d-missing` fetches it" in text
    assert f"put it at {machine.models}/d-missing/labels.txt" in text
    assert rows[3]["detail"] == "50 B of 100 B (50 %), being fetched"


# gc


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the engine list containers with these labels, or raise."""

    def lists(*labels: dict[str, str], error: Exception | None = None) -> None:
        class Engine:
            async def list(self, wanted: dict[str, str]) -> list[ContainerStatus]:
                assert wanted == {}  # those of other orchestrators too
                if error is not None:
                    raise error
                return [ContainerStatus("1", "c", "i", each, "running") for each in labels]

            async def close(self) -> None:
                pass

        monkeypatch.setattr(app, "docker_engine", lambda _: Engine())

    lists()
    return lists


def test_gc_removes_what_no_manifest_names(machine: Machine, server: FileServer, engine: Callable[..., None]) -> None:
    """Once it is asked to, and not only asked what it would do."""
    machine.plugin("reader", weights=fetched(server))
    named, unused = machine.stored(CONTENT), machine.stored(OTHER)
    dry = machine.call("gc", "--dry-run")
    assert dry.exit_code == 0 and f"{OTHER_SHA256} (50 B): would be removed" in dry.stdout
    assert unused.exists() and SHA256 not in dry.stdout
    result = machine.call("gc")
    assert result.exit_code == 0 and "50 B removed." in result.stdout
    assert named.exists() and not unused.exists()


def test_gc_leaves_what_an_instance_has_mounted(machine: Machine, engine: Callable[..., None]) -> None:
    """Of whichever orchestrator on this engine; when it has ended the file can go."""
    unused = machine.stored(OTHER)
    engine({"plugin-orchestrator.models": f"{SHA256},{OTHER_SHA256}", "plugin-orchestrator.deployment": "ffff"}, {})
    result = machine.call("gc")
    assert result.exit_code == 0 and "stays, since an instance has it mounted" in result.stdout and unused.exists()
    assert machine.listed("gc")["mounted"] == [{"sha256": OTHER_SHA256, "size": 50}]
    engine({}, {})
    assert machine.call("gc").exit_code == 0 and not unused.exists()


def test_gc_removes_nothing_where_it_cannot_know(
    machine: Machine, engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that does not answer, a manifest and a folder that cannot be read."""
    unused = machine.stored(OTHER)
    engine(error=EngineUnreachableError("the engine does not answer"))
    silent = machine.call("gc")
    assert silent.exit_code == 1 and "the engine does not answer" in silent.stderr
    engine()
    machine.plugin("reader", weights=5)
    broken = machine.call("gc")
    assert broken.exit_code == 1 and "the models of reader are not known" in broken.stderr
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", f"{machine.folder}/nowhere")
    elsewhere = machine.call("gc")
    assert elsewhere.exit_code == 1 and "ORCHESTRATOR_PLUGINS_DIRS" in elsewhere.stderr
    assert unused.exists()


def test_gc_asks_no_engine_where_nothing_is_unused(machine: Machine, engine: Callable[..., None]) -> None:
    engine(error=EngineUnreachableError("the engine does not answer"))
    assert machine.call("gc").exit_code == 0


def test_gc_leaves_a_partial_file_that_is_fetched(
    machine: Machine, server: FileServer, engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody fetches goes at once where no manifest names it, else after a week."""
    machine.plugin("reader", weights=fetched(server))
    for sha256 in (SHA256, OTHER_SHA256):
        partial = machine.store.open_partial(sha256)
        assert partial is not None
        with partial:
            partial.append(b"1")
            assert machine.call("gc").exit_code == 0
            assert machine.store.partial(sha256) is not None
    assert [each["sha256"] for each in machine.listed("gc")["partials"]] == [OTHER_SHA256]
    assert [each.sha256 for each in machine.store.partials()] == [SHA256]
    monkeypatch.setattr(plan, "PARTIAL_AGE", timedelta(0))
    machine.call("gc")
    assert list((machine.store.root / "partial").iterdir()) == []


# How a pull is shown


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def test_into_a_pipe_goes_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """With bytes, rate and time left; nothing for what is done at once."""
    mib = 1024**2
    with pull_display.PullDisplay(lambda: clock[0]) as display:
        for second in range(26):
            clock[0] = float(second)
            display.progress("reader: w.onnx", Progress("fetching", second * mib, 100 * mib))
        display.finished("reader: w.onnx", "fetched", 100 * mib)
        display.progress("reader: x.onnx", Progress("waiting", 1, None))
        clock[0] += 3
        display.progress("reader: x.onnx", Progress("waiting", 1, None))
    assert capsys.readouterr().err.splitlines() == [
        "reader: w.onnx: fetching: 2 MiB of 100 MiB (2 %), 1 MiB/s, 1m38s left",
        "reader: w.onnx: fetching: 12 MiB of 100 MiB (12 %), 1 MiB/s, 1m28s left",
        "reader: w.onnx: fetching: 22 MiB of 100 MiB (22 %), 1 MiB/s, 1m18s left",
        "reader: w.onnx is fetched (100 MiB)",
        "reader: x.onnx: waiting: 1 B, 0 B/s",
    ]


def test_in_a_terminal_there_is_a_bar(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same; it is gone when the file is there."""
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    monkeypatch.setattr(pull_display, "errors", console)
    with pull_display.PullDisplay(lambda: clock[0]) as display:
        display.progress("reader: [w].onnx", Progress("fetching", 512, 1024))
        display.note("reader: [w].onnx", "trying again")
        display._bars.refresh()
        display.finished("reader: [w].onnx", "fetched", 1024)
    shown = terminal.getvalue()
    assert "reader: [w].onnx: fetching" in shown and "0.5/1.0 KiB" in shown
    assert "trying again" in shown and "is fetched (1 KiB)" in shown


def test_a_retry_is_shown(machine: Machine, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "Puller", lambda *given: Puller(*given, sleep=lambda _: None))
    server.next(cut_after(10))
    machine.plugin("reader", weights=fetched(server))
    result = machine.call("pull")
    assert result.exit_code == 0 and "trying again in" in result.stderr and server.ranges[1] == "bytes=10-"
