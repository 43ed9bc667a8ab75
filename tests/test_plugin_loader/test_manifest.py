"""plugin.yaml: what is accepted, what is refused, and that a refusal names file, field and expectation."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import ManifestError
from orchestrator.loader.manifest import Manifest, read_manifest

MINIMAL = {"version": "1.0.0", "description": "Reads.", "entrypoint": "reader.plugin:Reader"}


def read(folder: Path, content: Any) -> Manifest:
    """The manifest of a plugin folder with this plugin.yaml."""
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str | bytes) else yaml.safe_dump(content)
    (folder / "plugin.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(folder)


def test_three_fields_are_enough(tmp_path: Path) -> None:
    """The rest is the contract's default; the folder gives the name."""
    manifest = read(tmp_path / "page_reader", MINIMAL)
    assert manifest.name == "page-reader"
    assert (manifest.image, manifest.network, manifest.failure_policy) == ("base", "none", "strict")
    assert (manifest.concurrency, manifest.queue, manifest.requires_gpu) == (1, 16, False)
    assert (manifest.gpu.count, manifest.gpu.memory, manifest.gpu.sharing) == (1, None, "exclusive")
    assert (manifest.replicas, manifest.spread) == (1, "gpu")
    assert (manifest.update.strategy, manifest.update.drain) == ("auto", timedelta(seconds=60))
    assert (manifest.idle.after, manifest.idle.keep, manifest.may_be_parked) == (None, False, False)
    assert manifest.limits.model_dump(exclude_none=True) == {}
    assert not any((manifest.models, manifest.packages, manifest.env, manifest.secrets, manifest.system_packages))


def test_every_field_can_be_set(tmp_path: Path) -> None:
    """Sizes and durations are in Docker's notation."""
    manifest = read(
        tmp_path / "reader",
        {
            **MINIMAL,
            "name": "page-reader",
            "image": "registry.example:5000/reader:3",
            "system_packages": ["libgl1"],
            "packages": ["cv2", "torch.nn"],
            "models": {"weights": "models/weights.pt"},
            "env": {"OMP_NUM_THREADS": "1"},
            "secrets": ["API_KEY"],
            "requires_gpu": True,
            "gpu": {"count": 2, "memory": "8GiB", "sharing": "shared"},
            "limits": {
                "timeout": "1m30s", "memory": "512MiB", "cpus": 1.5, "pids": 64, "shm": "128MiB", "scratch": 1048576,
            },
            "startup_timeout": "500ms",
            "concurrency": 4,
            "queue": 0,
            "replicas": 64,
            "spread": "pack",
            "update": {"strategy": "replace", "drain": "2m"},
            "idle": {"after": "10m", "keep": True},
            "placement": {"hosts": 2, "requires": {"gpu.name": "H100", "gpu.memory": "40GiB", "label.rack": 7}},
            "network": "egress",
            "failure_policy": "tolerant",
        },
    )  # fmt: skip
    assert (manifest.placement.hosts, manifest.placement.labels) == (2, {"rack": "7"})
    assert (manifest.placement.gpu_name, manifest.placement.gpu_memory) == ("H100", 40 * 1024**3)
    assert type(manifest).model_validate(manifest.model_dump(mode="json", exclude_unset=True)) == manifest
    assert manifest.name == "page-reader"
    assert manifest.limits.timeout == timedelta(seconds=90)
    assert manifest.limits.memory == 512 * 1024**2
    assert manifest.limits.scratch == 1024**2
    assert manifest.startup_timeout == timedelta(milliseconds=500)
    assert manifest.gpu.memory == 8 * 1024**3
    assert (manifest.queue, manifest.failure_policy) == (0, "tolerant")
    assert (manifest.replicas, manifest.spread) == (64, "pack")
    assert (manifest.update.strategy, manifest.update.drain) == ("replace", timedelta(minutes=2))
    assert (manifest.idle.after, manifest.idle.keep) == (timedelta(minutes=10), True)


@pytest.mark.parametrize(
    ("fields", "parked"),
    [
        ({}, False),
        ({"idle": {"after": "10m"}}, True),
        ({"idle": {"after": "10m", "keep": True}}, True),
        ({"requires_gpu": True}, True),
        ({"requires_gpu": True, "idle": {"keep": True}}, False),
    ],
)
def test_what_may_be_parked(tmp_path: Path, fields: dict[str, Any], parked: bool) -> None:
    """By its own idleness, or for another plugin's GPU unless it is kept."""
    assert read(tmp_path / "reader", {**MINIMAL, **fields}).may_be_parked is parked


HASH = "ab" * 32
FETCHED = {"path": "w.pt", "from": ["https://host/w.pt"], "sha256": HASH}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a misspelt field", {"requires_gpus": True}, "requires_gpus", "unknown field"),
    ("a misspelt limit", {"limits": {"tiemout": "5s"}}, "limits.tiemout", "unknown field"),
    ("privileges", {"privileged": True}, "privileged", "unknown field"),
    ("no version", {"version": None}, "version", "valid string"),
    ("a number for a version", {"version": 1.0}, "version", "in quotes"),
    ("an empty description", {"description": ""}, "description", "at least 1 character"),
    ("a path for an entrypoint", {"entrypoint": "reader/plugin.py"}, "entrypoint", "package.module:Class"),
    ("an entrypoint without a class", {"entrypoint": "reader.plugin"}, "entrypoint", "package.module:Class"),
    ("capitals in the name", {"name": "Reader"}, "name", "a DNS label"),
    ("a name too long", {"name": "r" * 64}, "name", "a DNS label"),
    ("a path for a name", {"name": "../reader"}, "name", "a DNS label"),
    ("a line end after the name", {"name": "reader\n"}, "name", "a DNS label"),
    ("a bare number of seconds", {"limits": {"timeout": 60}}, "limits.timeout", "duration with its unit"),
    ("a number of seconds as text", {"limits": {"timeout": "60"}}, "limits.timeout", "duration with its unit"),
    ("a duration of nothing", {"limits": {"timeout": "0s"}}, "limits.timeout", "above zero"),
    ("a negative duration", {"startup_timeout": "-5s"}, "startup_timeout", "above zero"),
    ("an unknown unit", {"limits": {"timeout": "5 parsecs"}}, "limits.timeout", "such as 60s"),
    ("no size", {"limits": {"memory": "lots"}}, "limits.memory", "byte"),
    ("a negative size", {"limits": {"memory": -1}}, "limits.memory", "value and unit"),
    ("no CPU", {"limits": {"cpus": 0}}, "limits.cpus", "greater than or equal to 0.01"),
    ("too few processes", {"limits": {"pids": 1}}, "limits.pids", "greater than or equal to 8"),
    ("text for a number", {"concurrency": "many"}, "concurrency", "valid integer"),
    ("a truth for a number", {"concurrency": True}, "concurrency", "expected a number, not true"),
    ("a truth for a number of runs", {"queue": True}, "queue", "expected a number, not true"),
    ("a truth for cores", {"limits": {"cpus": True}}, "limits.cpus", "expected a number, not true"),
    ("a truth for GPUs", {"requires_gpu": True, "gpu": {"count": True}}, "gpu.count", "expected a number, not true"),
    ("no instance", {"replicas": 0}, "replicas", "1 to 64, not 0; to run none, use `orchestrator stop`"),
    ("too many instances", {"replicas": 65}, "replicas", "a whole number from 1 to 64, not 65"),
    ("less than no instance", {"replicas": -1}, "replicas", "a whole number from 1 to 64, not -1"),
    ("half an instance", {"replicas": 1.5}, "replicas", "a whole number from 1 to 64, not 1.5"),
    ("a number of instances as text", {"replicas": "2"}, "replicas", "a whole number from 1 to 64, not '2'"),
    ("a truth for instances", {"replicas": True}, "replicas", "a whole number from 1 to 64, not True"),
    ("nothing for instances", {"replicas": None}, "replicas", "a whole number from 1 to 64, not None"),
    ("another spread", {"spread": "wide"}, "spread", "'gpu' or 'pack'"),
    ("a strategy alone", {"update": "replace"}, "update", "expected `strategy`, `drain` or both"),
    ("another strategy", {"update": {"strategy": "canary"}}, "update.strategy", "'auto', 'overlap' or 'replace'"),
    ("no drain", {"update": {"drain": "0s"}}, "update.drain", "above zero"),
    ("a misspelt drain", {"update": {"drian": "5s"}}, "update.drian", "unknown field"),
    ("a time alone", {"idle": "10m"}, "idle", "or both, such as idle: {after: 10m}, not '10m'"),
    ("never", {"idle": "never"}, "idle", "expected `after`, `keep` or both"),
    ("nothing for idle", {"idle": None}, "idle", "expected `after`, `keep` or both"),
    ("a bare number of idle seconds", {"idle": {"after": 600}}, "idle.after", "duration with its unit"),
    ("idle at once", {"idle": {"after": "0s"}}, "idle.after", "above zero"),
    ("idle too soon", {"idle": {"after": "999ms"}}, "idle.after", "expected at least 1s"),
    ("a word for keep", {"idle": {"keep": "always"}}, "idle.keep", "valid boolean"),
    ("a misspelt idle field", {"idle": {"afer": "5m"}}, "idle.afer", "unknown field"),
    ("a name for hosts", {"placement": {"hosts": "gpu-1"}}, "placement.hosts", "a list of names such as [gpu-1]"),
    ("no host", {"placement": {"hosts": 0}}, "placement.hosts", "a number of hosts from 1 to 200, `all`, or a list"),
    ("no names", {"placement": {"hosts": []}}, "placement.hosts", "a number of hosts"),
    ("a truth for hosts", {"placement": {"hosts": True}}, "placement.hosts", "a number of hosts"),
    ("a host in capitals", {"placement": {"hosts": ["GPU"]}}, "placement.hosts", "names of hosts, such as [gpu-1,"),
    ("a host twice", {"placement": {"hosts": ["a", "a"]}}, "placement.hosts", "a is listed twice"),
    ("hosts alone", {"placement": "all"}, "placement", "expected `hosts`, `requires` or both"),
    ("an unknown requirement", {"placement": {"requires": {"rack": "a"}}}, "placement.requires", "label.NAME"),
    ("no size", {"placement": {"requires": {"gpu.memory": "big"}}}, "placement.requires", "a size such as 40GiB"),
    ("a list for a label", {"placement": {"requires": {"label.a": ["b"]}}}, "placement.requires", "expected a text"),
    ("a GPU's name without", {"placement": {"requires": {"gpu.name": "T4"}}}, "placement", "requires_gpu is not true"),
    ("nothing at once", {"concurrency": 0}, "concurrency", "greater than or equal to 1"),
    ("a model above the folder", {"models": {"w": "../w.pt"}}, "models", "inside the plugin's folder"),
    ("a model above, hidden", {"models": {"w": "a/../../w.pt"}}, "models", "inside the plugin's folder"),
    ("a model anywhere", {"models": {"w": "/etc/passwd"}}, "models", "inside the plugin's folder"),
    ("a model nowhere", {"models": {"w": ""}}, "models", "inside the plugin's folder"),
    ("a model's name with a slash", {"models": {"a/b": "w.pt"}}, "models", "does not fit"),
    ("an address for a path", {"models": {"w": "https://host/w.pt"}}, "models.w", "an address goes under `from`"),
    ("a number for a model", {"models": {"w": 5}}, "models.w", "expected a path, or `path`, `from` and `sha256`"),
    ("a list for a model", {"models": {"w": ["w.pt"]}}, "models.w", "expected a path, or"),
    ("a model without a path", {"models": {"w": {"sha256": HASH}}}, "models.w.path", "required field is missing"),
    ("a fetched model above", {"models": {"w": {**FETCHED, "path": "../w"}}}, "models.w.path", "inside the plugin's"),
    ("a misspelt source", {"models": {"w": {"path": "w", "form": []}}}, "models.w.form", "unknown field"),
    ("a source without a hash", {"models": {"w": {**FETCHED, "sha256": None}}}, "models.w", "`from` needs `sha256`"),
    ("half a hash", {"models": {"w": {**FETCHED, "sha256": "ab12"}}}, "models.w.sha256", "64 hexadecimal digits"),
    ("no hash", {"models": {"w": {**FETCHED, "sha256": "g" * 64}}}, "models.w.sha256", "64 hexadecimal digits"),
    ("a number for a hash", {"models": {"w": {**FETCHED, "sha256": 12}}}, "models.w.sha256", "64 hexadecimal digits"),
    ("a folder to fetch", {"models": {"w": {**FETCHED, "path": "models/"}}}, "models.w", "fetches one file"),
    ("one address, no list", {"models": {"w": {**FETCHED, "from": "https://h/w"}}}, "models.w.from", "a list of addr"),
    ("too many addresses", {"models": {"w": {**FETCHED, "from": ["https://h/w"] * 17}}}, "models.w.from", "at most 16"),
    ("an address of another kind", {"models": {"w": {**FETCHED, "from": ["ftp://h/w"]}}}, "models.w.from", "https://"),
    ("an address without a host", {"models": {"w": {**FETCHED, "from": ["https:///w"]}}}, "models.w.from", "a host"),
    ("a path for an address", {"models": {"w": {**FETCHED, "from": ["/srv/w"]}}}, "models.w.from", "https:// or file"),
    ("a relative file", {"models": {"w": {**FETCHED, "from": ["file://srv/w"]}}}, "models.w.from", "file:///absolute"),
    ("a password in the clear", {"models": {"w": {**FETCHED, "from": ["http://u:p@h/w"]}}}, "models.w.from", "https "),
    ("a protocol variable", {"env": {"PLUGIN_RUN_DIR": "/"}}, "env", "set by the orchestrator"),
    ("a variable that decides what runs", {"env": {"PYTHONPATH": "/"}}, "env", "set by the orchestrator"),
    ("a number for a variable", {"env": {"THREADS": 1}}, "env.THREADS", "in quotes"),
    ("a shell command for a package", {"system_packages": ["x; rm -rf /"]}, "system_packages", "Debian packages"),
    ("an option for a package", {"system_packages": ["-oAPT::x"]}, "system_packages", "Debian packages"),
    ("a requirement for an import name", {"packages": ["numpy>=1"]}, "packages", "import names"),
    ("a GPU that is not required", {"gpu": {"count": 1}}, "gpu", "requires_gpu is not true"),
    ("an unknown network", {"network": "host"}, "network", "'none' or 'egress'"),
    ("an unknown policy", {"failure_policy": "lenient"}, "failure_policy", "'strict' or 'tolerant'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field", "expected"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_an_invalid_value_is_named(tmp_path: Path, change: dict[str, Any], field: str, expected: str) -> None:
    """The sentence has file, field and expectation, and no path of the host."""
    with pytest.raises(ManifestError) as caught:
        read(tmp_path / "reader", {**MINIMAL, **change})
    sentence = str(caught.value)
    assert sentence.startswith("reader/plugin.yaml: ")
    assert f"{field}" in sentence
    assert expected in sentence
    assert str(tmp_path) not in sentence


def test_a_model_can_say_where_it_comes_from(tmp_path: Path) -> None:
    """Beside one that is only a path; a hash may be written in capitals."""
    urls = ["https://u:p@host/w.pt?x=1", "http://mirror:8080/w.pt", "file:///srv/w.pt"]
    content = {"weights": {"path": "models/w.pt", "from": urls, "sha256": HASH.upper()}, "labels": "labels.txt"}
    models = read(tmp_path / "reader", {**MINIMAL, "models": content}).models
    assert (models["weights"].path, models["weights"].sources) == ("models/w.pt", tuple(urls))
    assert models["weights"].sha256 == HASH
    assert (models["labels"].path, models["labels"].sources, models["labels"].sha256) == ("labels.txt", (), None)


@pytest.mark.parametrize(
    "model",
    [
        "https://user:hunter2@host/w.pt?token=hunter2",
        ["https://user:hunter2@host/w.pt"],
        {"path": "https://user:hunter2@host/" + "w" * 200 + "/../../../w.pt"},
        {"path": ["https://user:" + "hunter2" * 30 + "@host/w.pt"]},
        {**FETCHED, "from": "https://user:hunter2@host/w.pt"},
        {**FETCHED, "from": ["https://user:hunter2@host:port/w.pt"]},
        {**FETCHED, "from": ["http://user:hunter2@host/w.pt"]},
        {**FETCHED, "from": ["ftp://user:hunter2@host/w.pt"]},
        {**FETCHED, "from": ["https://user:hunter2@/w.pt?hunter2"]},
        {**FETCHED, "from": [{"url": "https://user:hunter2@host/w.pt"}]},
        {**FETCHED, "sha256": "https://user:hunter2@host/w.pt"},
        {**FETCHED, "from": ["https://user:hunter2@host/w.pt"], "sha256": None},
    ],
)
def test_an_invalid_model_shows_no_credentials(tmp_path: Path, model: Any) -> None:
    """The sentence is in the health API, for everyone who may read that."""
    with pytest.raises(ManifestError, match=r"models\.w") as caught:
        read(tmp_path / "reader", {**MINIMAL, "models": {"w": model}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("field", sorted(MINIMAL))
def test_a_required_field_that_is_missing_is_named(tmp_path: Path, field: str) -> None:
    """Each of the three."""
    with pytest.raises(ManifestError, match=f"^reader/plugin.yaml: {field}: required field is missing$"):
        read(tmp_path / "reader", {name: value for name, value in MINIMAL.items() if name != field})


def test_several_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """One restart per mistake would be too many."""
    with pytest.raises(ManifestError) as caught:
        read(tmp_path / "reader", {**MINIMAL, "queue": "x", "colour": "red"})
    assert "queue: " in str(caught.value)
    assert "colour: " in str(caught.value)


NO_MANIFEST: list[tuple[str, bytes, str]] = [
    ("an open bracket", b"version: 1\npackages: [a\n", "is not valid YAML in line 3"),
    ("an empty file", b"", "not a NoneType"),
    ("a list", b"- a\n- b\n", "not a list"),
    ("text", b"hello", "not a str"),
    ("no UTF-8", b"description: \xff\xfe", "expected UTF-8 text"),
    ("a control character", b"description: a\x00b", "is not valid YAML"),
    ("a Python object", b"!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ("an impossible date", b"version: 2024-13-45", "is not valid YAML"),
    ("brackets without end", b"[" * 1000, "is not valid YAML"),
    ("lists in lists without end", b"- " * 120_000, "is not valid YAML"),
    ("too much", b"#" * 300_000, "at most 262144 bytes"),
    ("numbers for field names", b"1: a\n2: b\n", "should be strings"),
    ("a list for a field name", b"? [a, b]\n: c\n", "is not valid YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [row[1:] for row in NO_MANIFEST], ids=[row[0] for row in NO_MANIFEST])
def test_a_file_that_is_no_manifest_at_all_is_named_too(tmp_path: Path, content: bytes, expected: str) -> None:
    """Whatever is in the file, the error is a sentence about that file."""
    with pytest.raises(ManifestError) as caught:
        read(tmp_path / "reader", content)
    assert str(caught.value).startswith("reader/plugin.yaml: ")
    assert expected in str(caught.value)


def test_a_folder_for_a_file_is_named(tmp_path: Path) -> None:
    """plugin.yaml cannot be read: the sentence has the cause and no path."""
    (tmp_path / "reader" / "plugin.yaml").mkdir(parents=True)
    with pytest.raises(ManifestError, match=r"^reader/plugin.yaml: expected a file"):
        read_manifest(tmp_path / "reader")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(Manifest.model_fields)), anything))
def test_any_value_of_any_field_is_accepted_or_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Any YAML gives a manifest or a `ManifestError`, nothing else."""
    try:
        outcome = read(tmp_path / "reader", yaml.safe_dump({**MINIMAL, **fields})).version
    except ManifestError as error:
        outcome = str(error)
    assert outcome == "1.0.0" or "version" in fields or outcome.startswith("reader/plugin.yaml: ")


def test_a_manifest_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    """Opening it for reading would block the whole discovery."""
    os.mkfifo(tmp_path / "plugin.yaml")
    with pytest.raises(ManifestError, match="expected a file"):
        read_manifest(tmp_path)


def test_aliases_are_refused_before_they_expand(tmp_path: Path) -> None:
    """Ten lines of them would be gigabytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "plugin.yaml").write_text("\n".join(lines))
    with pytest.raises(ManifestError, match="aliases"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limits", {"cpus": float("inf")}),
        ("limits", {"memory": "1KiB"}),
        ("limits", {"memory": "9999999TiB"}),
        ("models", {"m": "a\0b"}),
        ("env", {"A": "\0"}),
        ("image", "UPPER/Case:bad:tag"),
        ("image", "reader:ä"),
    ],
)
def test_a_value_that_no_engine_could_use_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    """With the field's name, before anything is built."""
    content = {"version": "1", "description": "d", "entrypoint": "a.b:C", field: value}
    (tmp_path / "plugin.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ManifestError, match=field):
        read_manifest(tmp_path)


def _described_in(schema: dict[str, Any], where: str = "") -> Iterator[tuple[str, bool]]:
    for name, field in schema["properties"].items():
        yield f"{where}{name}", bool(field.get("description"))
    for name, inner in schema.get("$defs", {}).items():
        yield from _described_in(inner, f"{name}.")


def test_the_published_schema_describes_every_field() -> None:
    """An editor shows it where the field is written."""
    fields = dict(_described_in(Manifest.model_json_schema()))
    assert {"failure_policy", "Limits.memory", "Gpu.sharing", "replicas", "UpdatePolicy.drain", "Idle.after"} <= set(
        fields
    )
    assert [name for name, described in fields.items() if not described] == []
    replicas = Manifest.model_json_schema()["properties"]["replicas"]
    assert (replicas["type"], replicas["minimum"], replicas["maximum"]) == ("integer", 1, 64)
    policy = Manifest.model_json_schema()["properties"]["failure_policy"]
    assert {"strict", "tolerant"} == set(policy["enum"]) and "tolerant" in policy["description"]


def test_the_published_schema_requires_what_a_manifest_must_have() -> None:
    """The name comes from the folder where it is left out."""
    assert set(Manifest.model_json_schema()["required"]) == set(MINIMAL)
