"""`orchestrator check-image`: images that follow the runtime protocol, and images that break one rule of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import TESTS
from support.live import live_orchestrator

from orchestrator.app import image_builder
from orchestrator.conformance import check_image
from orchestrator.errors import NotFoundError
from orchestrator.loader.image_recipe import ImageRecipe
from orchestrator.loader.manifest import read_manifest
from orchestrator.settings import Settings

FIXTURES = TESTS / "fixtures"
WORDS = ("count_words", {"text": "one two three"})

pytestmark = pytest.mark.engine

WRONG = [
    ("notify", "    say_ready();\n", ""),
    ("socket-modes", "chmod(address.sun_path, 0666)", "chmod(address.sun_path, 0600)"),
    ("status", '{\\"protocol\\":1', '{\\"protocol\\":2'),
    ("tools", '\\"additionalProperties\\":false', '\\"additionalProperties\\":true'),
    ("watch", "while (recv(fd, &c, 1, 0) > 0) {}", "(void)c;"),
    ("nonsense", "if (got == -1) refuse", "if (got == -1) exit(3), refuse"),
    ("unknown-tool", 'refuse(a, 404, "unknown_tool"', 'refuse(a, 404, "no_tool"'),
    ("broken-json", 'refuse(a, 400, "bad_request", "the body', 'refuse(a, 500, "exception", "the body'),
    ("unknown-parameter", '"%s: there is no such parameter, there is text", name', '"no such parameter"'),
    ("content-encoding", "else if (r->encoded) refuse(a, 415", "else if (r->encoded) refuse(a, 422"),
    ("kept-run", "keep(r->run_id, a);", ";"),
    ("keep-alive", "open = reply(caller.fd, &a, r.close) && !r.close;", "reply(caller.fd, &a, 1), open = 0;"),
    ("sigterm", "sigwait(&stop, &number);", "for (;;) pause(); (void)number;"),
]


async def test_a_plugin_that_is_not_python_follows_every_rule(word_count_image, engine, settings) -> None:
    """Static C on an empty image: no shell, no file but its own."""
    results = await check_image(engine, word_count_image(), settings, call=WORDS)
    assert {result.rule: result.detail for result in results if result.outcome != "ok"} == {}
    assert list(settings.run_dir.iterdir()) == []


@pytest.mark.parametrize(("rule", "old", "new"), WRONG)
async def test_each_fault_is_reported_under_its_own_rule(
    word_count_image, engine, settings, rule: str, old: str, new: str
) -> None:
    """And under no other; but a container that crashed on garbage answers nothing any more."""
    results = await check_image(engine, word_count_image(rule, old, new), settings, call=WORDS)
    first, *others = [result for result in results if result.outcome == "broken"]
    assert first.rule == rule and first.detail
    assert not others or rule == "nonsense"


async def test_an_image_that_does_not_start_is_checked_no_further(word_count_image, engine, settings) -> None:
    image = word_count_image("dies", "    started = now();\n", "    exit(7);\n")
    first, *others = await check_image(engine, image, settings, call=WORDS)
    assert (first.rule, first.outcome) == ("control-socket", "broken")
    assert "(7)" in first.detail
    assert {result.outcome for result in others} == {"not checked"}


async def test_the_runtime_for_python_follows_every_rule(engine, settings) -> None:
    """The fixture `echo`, as every other test has it."""
    folder = FIXTURES / "plugins" / "echo"
    manifest = read_manifest(folder)
    image = await image_builder(Settings(), engine).ensure_plugin(ImageRecipe.of(manifest, folder))
    call = ("echo", {"text": "x"})
    results = await check_image(engine, image.id, settings, call=call, entrypoint=manifest.entrypoint)
    assert {result.rule: result.detail for result in results if result.outcome != "ok"} == {}


async def test_without_a_call_it_says_what_was_not_checked(word_count_image, engine, settings) -> None:
    results = await check_image(engine, word_count_image(), settings)
    left = {result.rule: result.detail for result in results if result.outcome == "not checked"}
    assert left.keys() == {"call", "keep-alive", "kept-run"}
    assert all("--call" in detail for detail in left.values())


async def test_a_missing_image_is_an_error(engine, settings) -> None:
    with pytest.raises(NotFoundError):
        await check_image(engine, "plugin-orchestrator/no-such-image:1", settings)


def test_the_command_reports_to_programs_and_people(word_count_image, tmp_path: Path) -> None:
    """Exit code 0 and 1; JSON with a result for every rule."""
    good, bad = word_count_image(), word_count_image("mute", "    say_ready();\n", "")
    done = _command(tmp_path, good, "--json")
    assert done.returncode == 0
    assert {result["outcome"] for result in json.loads(done.stdout)} == {"ok", "not checked"}
    done = _command(tmp_path, bad)
    assert done.returncode == 1
    assert "no READY=1 came" in done.stdout
    assert _command(tmp_path, "plugin-orchestrator/no-such-image:1").returncode == 2


def test_it_runs_as_a_plugin(word_count_image) -> None:
    """A folder with a manifest that names the image: the same states, runs and refusals as any other."""
    word_count_image()
    with live_orchestrator([FIXTURES / "word_count" / "plugins"]) as live:
        live.wait_ready(60)
        answer = live.run("word-count", "count_words", {"text": "une vie, \n deux  vies"}).json()
        assert answer["ok"] is True and answer["result"] == {"words": 4}
        assert live.health("word-count")["state"] == "RUNNING"
        refused = live.run("word-count", "count_words", {"word": "x"})
        assert refused.status_code == 422 and "word" in refused.json()["error"]
        assert live.restart("word-count")["generation"] == 2
        accepted = live.client.post(
            "/v1/plugins/word-count/tools/count_words/run", json={"text": "a b"}, headers={"Prefer": "respond-async"}
        )
        assert accepted.status_code == 202
        result = live.client.get(f"{accepted.headers['location']}/result", params={"wait": 20}).json()
        assert result["result"] == {"words": 2}
        assert live.health("word-count")["reason_code"] is None


def _command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "check-image", *arguments],
        env=os.environ | {"ORCHESTRATOR_RUN_DIR": str(folder / "run"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
