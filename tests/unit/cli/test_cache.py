"""`orchestrator cache list`: the caches, with the limits that manifests set."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from orchestrator.cli import cache, commands
from orchestrator.containers.spec import VolumeStatus
from orchestrator.supervisor.container_policy import LABEL_CACHE

MANIFEST = "version: '1'\ndescription: Reads.\nentrypoint: r.p:R\ncache: 1GiB\n"


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """`reader` has a manifest, that of `broken` cannot be read, `removed` has no folder; each has a cache."""

    async def caches(_):
        return tuple(
            VolumeStatus(f"cache-{name}", {LABEL_CACHE: name}, 1024) for name in ("reader", "broken", "removed")
        )

    monkeypatch.setattr(cache, "_caches", caches)
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS_DIRS", str(tmp_path))
    for name, text in (("reader", MANIFEST), ("broken", "version: [")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plugin.yaml").write_text(text)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(commands.command_line("cache"), ["cache", "list", *arguments])


def test_a_broken_manifest_hides_no_other_and_its_limit_is_not_claimed(plugins):
    result = call()
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if "KiB" in line}
    assert "1 GiB" in rows["reader"] and "unknown" in rows["broken"] and "not in a manifest" in rows["removed"]
    assert result.exit_code == 1 and "broken: " in result.stderr
    as_json = call("--json")
    assert (as_json.exit_code, len(json.loads(as_json.stdout))) == (1, 3)


def test_without_one_it_succeeds(plugins):
    (plugins / "broken" / "plugin.yaml").write_text(MANIFEST)
    assert call().exit_code == 0
