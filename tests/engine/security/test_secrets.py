"""Secrets of plugins: from the operator's files or environment into the container, and nowhere else."""

import hashlib
import secrets
import time
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.harness import Harness
from support.live import live_orchestrator

from orchestrator.errors import ManifestError
from orchestrator.loader.manifest import Manifest, read_manifest
from orchestrator.loader.plugin_secrets import SecretMissingError, SecretSource, variable

PLUGIN = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,6}", fullmatch=True)


@given(st.tuples(PLUGIN, NAME), st.tuples(PLUGIN, NAME))
def test_no_two_secrets_share_a_variable(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Otherwise one plugin's manifest could name another's secret."""
    assert (variable(*one) == variable(*other)) is (one == other)


def test_a_variables_name_is_predictable() -> None:
    """Except for the hyphen."""
    assert variable("ocr", "API_KEY") == "ORCHESTRATOR_SECRET_OCR_API_KEY"
    assert variable("video-tracker", "TOKEN") == "ORCHESTRATOR_SECRET_VIDEO__TRACKER_TOKEN"


def test_a_file_counts_before_a_variable(tmp_path: Path) -> None:
    """Its bytes unchanged."""
    source = SecretSource(tmp_path, {variable("reader", "KEY"): "from the environment"})
    assert source.read("reader", "KEY") == b"from the environment"
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "KEY").write_bytes(b"\x00from the file\n")
    assert source.read("reader", "KEY") == b"\x00from the file\n"


@pytest.mark.parametrize("content", [None, b"", b"x" * 70_000], ids=["absent", "empty", "huge"])
def test_a_missing_secret_is_reported_with_where_to_put_it(tmp_path: Path, content: bytes | None) -> None:
    """With the names of file and variable; without a host path."""
    (tmp_path / "reader").mkdir()
    if content is not None:
        (tmp_path / "reader" / "KEY").write_bytes(content)
    with pytest.raises(SecretMissingError) as raised:
        SecretSource(tmp_path, {}).read("reader", "KEY")
    assert "write it to reader/KEY in ORCHESTRATOR_SECRETS_DIR" in str(raised.value)
    assert "ORCHESTRATOR_SECRET_READER_KEY" in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize(
    "names", [["../x"], ["a/b"], [""], ["_A"], ["a-b"], ["a\n"], ["A", "A"], ["a" * 65], [f"A{n}" for n in range(65)]]
)
def test_a_secret_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, names: list[str]) -> None:
    """The manifest is refused."""
    import yaml

    least = {"version": "1", "description": "x", "entrypoint": "a.b:C", "secrets": names}
    (tmp_path / "plugin.yaml").write_text(yaml.safe_dump(least))
    with pytest.raises(ManifestError, match="secrets"):
        read_manifest(tmp_path)


def test_the_published_schema_has_them() -> None:
    """For editors."""
    assert Manifest.model_json_schema()["properties"]["secrets"]["maxItems"] == 64


async def test_without_its_secret_a_plugin_is_unavailable_before_anything_is_built(harness: Harness) -> None:
    """After a restart it is available, once the operator has provided it."""
    harness.add("reader", image="base", secrets=["KEY"], tools={"read": lambda: 1})
    client = await harness.open()
    missing = await harness.settled("reader")
    assert (missing["state"], missing["reason_code"]) == ("UNAVAILABLE", "SECRET_MISSING")
    assert missing["reason"] == (
        "The secret 'KEY' is not provided: write it to secrets/reader/KEY in ORCHESTRATOR_STATE_DIR (`orchestrator"
        " doctor` and the log show the whole path), or set ORCHESTRATOR_SECRET_READER_KEY for the orchestrator;"
        " then restart the plugin."
    )
    assert await harness.containers("reader") == []
    folder = harness.settings.state_dir / "secrets" / "reader"
    folder.mkdir(parents=True)
    (folder / "KEY").write_text("s3cr3t-value")
    assert (await client.post("/v1/plugins/reader/restart", params={"wait": 5})).json()["state"] == "INITIALIZED"
    health = await harness.health("reader")
    assert {"name": "secret:KEY", "ok": True, "detail": "is provided", "source": "host"} in health["checks"]
    assert "s3cr3t-value" not in (await client.get("/v1/plugins/reader/health")).text


async def test_a_secret_is_mounted_read_only_and_removed_with_its_instance(harness: Harness) -> None:
    """Below a folder that only the orchestrator can enter."""
    harness.add("reader", secrets=["KEY"])
    folder = harness.settings.state_dir / "secrets" / "reader"
    folder.mkdir(parents=True)
    (folder / "KEY").write_text("s3cr3t-value")
    client = await harness.open()
    await harness.settled("reader")
    spec = harness.instance("reader").spec
    (mount,) = [mount for mount in spec.mounts if mount.target.startswith("/run/secrets")]
    assert (mount.target, mount.read_only, mount.source.read_text()) == ("/run/secrets/KEY", True, "s3cr3t-value")
    assert mount.source.is_relative_to(harness.run_dir)
    assert any(parent.stat().st_mode & 0o777 == 0o700 for parent in mount.source.parents)
    assert "s3cr3t-value" not in repr(spec)
    await client.post("/v1/plugins/reader/stop")
    assert not mount.source.exists()


VAULT = '''
import hashlib, os
from pathlib import Path
from plugin_runtime import secret, tool

class Vault:
    def validate(self) -> None:
        self.token = secret("TOKEN")

    @tool
    def look(self) -> dict:
        """What the container has of the secret."""
        path = Path("/run/secrets/TOKEN")
        try:
            path.write_text("changed")
            changed = "changed"
        except OSError as error:
            changed = type(error).__name__
        try:
            undeclared = secret("OTHER")
        except LookupError as error:
            undeclared = str(error)
        return {
            "sha256": hashlib.sha256(self.token.encode()).hexdigest(),
            "files": sorted(p.name for p in path.parent.iterdir()),
            "write": changed,
            "undeclared": undeclared,
            "in_environment": any(self.token in value for value in os.environ.values()),
            "in_command": self.token in Path("/proc/1/cmdline").read_text(),
        }

    @tool
    def fail(self) -> int:
        """A failure whose post-mortem is stored."""
        return 1 // 0
'''


@pytest.mark.engine
@pytest.mark.parametrize("provided", ["file", "variable"])
def test_a_secret_is_in_the_container_and_nowhere_else(
    tmp_path: Path, provided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the engine, the API, the history, the logs, or any file that the orchestrator writes."""
    value = secrets.token_hex(24)
    plugin, state = tmp_path / "plugins" / "vault", tmp_path / "state"
    (plugin / "vault").mkdir(parents=True)
    (plugin / "vault" / "__init__.py").touch()
    (plugin / "vault" / "plugin.py").write_text(VAULT)
    (plugin / "plugin.yaml").write_text(
        "version: 1.0.0\ndescription: Keeps a secret.\nentrypoint: vault.plugin:Vault\nsecrets: [TOKEN]\n"
    )
    if provided == "file":
        (tmp_path / "secrets" / "vault").mkdir(parents=True)
        (tmp_path / "secrets" / "vault" / "TOKEN").write_text(f"{value}\n")
    else:
        monkeypatch.setenv("ORCHESTRATOR_SECRET_VAULT_TOKEN", value)
    settings = {"state_dir": str(state), "secrets_dir": str(tmp_path / "secrets"), "log_level": "DEBUG"}
    with live_orchestrator([tmp_path / "plugins"], **settings) as live:
        live.wait_ready(300)
        seen = live.run("vault", "look").json()["result"]
        assert seen.pop("sha256") == hashlib.sha256(value.encode()).hexdigest()
        assert "OTHER" in seen.pop("undeclared")
        assert seen == {"files": ["TOKEN"], "write": "OSError", "in_environment": False, "in_command": False}
        shown = [str(everything_the_engine_knows(live.containers()[0]))]
        live.run("vault", "fail")
        while live.wait_for("vault", "FAILED")["post_mortem"] is None:
            time.sleep(0.05)
        shown += [live.client.get(f"/v1/plugins{path}").text for path in ("", *API)]
        shown.append(live.client.get("/v1/events").text)
        end = time.monotonic() + 10
        while list((live.run_dir / live.deployment).rglob("TOKEN")):
            assert time.monotonic() < end, "the copy still exists"
            time.sleep(0.05)
        live.stop()
        written = [path for path in live.state_dir.rglob("*") if path.is_file()]
        assert any(path.suffix == ".db" or "history" in path.name for path in written)
        texts = [text.encode() for text in shown] + [path.read_bytes() for path in (*written, live.log)]
        assert not any(value.encode() in text for text in texts)


API = [f"/vault/{route}" for route in ("health", "tools", "logs", "events")]


def everything_the_engine_knows(container: Any) -> list[Any]:
    engine = docker.from_env()
    try:
        inspected = engine.api.inspect_container(container.id)
        image = inspected["Image"]
        return [inspected, engine.api.inspect_image(image), engine.api.history(image), container.logs()]
    finally:
        engine.close()
