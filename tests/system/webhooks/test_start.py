"""What a start says of a file of webhooks that cannot be used, and what it loads where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.webhook_receiver import SECRET

pytestmark = pytest.mark.slow

GOOD = "- name: pager\n  url: https://user:hidden@example.org/\n  secret_file: secret\n"


def started(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that a sentence ends."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")} | {
        "ORCHESTRATOR_PORT": "0",
        "ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"),
        "ORCHESTRATOR_RUN_DIR": str(tmp_path / "run"),
        "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock",
        **{f"ORCHESTRATOR_{name}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "orchestrator", "serve"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        (GOOD + "  colour: red\n", {}, "webhooks.yaml, line 1: colour: unknown field"),
        (GOOD.replace("secret_file: secret", "secret_file: none"), {}, "line 1: secret_file: "),
        (GOOD, {"CA_BUNDLE": "/nonexistent/ca.pem"}, "Correct ORCHESTRATOR_CA_BUNDLE"),
    ],
)
def test_a_mistake_ends_the_start_in_one_sentence(
    tmp_path: Path, text: str, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "webhooks.yaml").write_text(text)
    ended = started(tmp_path, WEBHOOKS=str(tmp_path / "webhooks.yaml"), **settings)
    assert ended.returncode == 1 and said in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr and "hidden" not in ended.stderr


def test_without_a_webhook_nothing_that_sends_is_loaded() -> None:
    program = (
        "import sys, orchestrator.cli.serve; print([n for n in sys.modules if n.startswith('orchestrator.webhooks.')])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "webhooks.service" in loaded and "webhooks.sender" not in loaded and "webhooks.dispatcher" not in loaded
