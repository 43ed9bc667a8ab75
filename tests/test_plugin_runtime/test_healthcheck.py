"""The health check is for the engine: an exit status and one line."""

import os
import subprocess
import sys
import tempfile

import pytest
from plugin_runtime import healthcheck as healthcheck_module


def healthcheck(run_dir):
    return subprocess.run(
        [sys.executable, "-m", "plugin_runtime.healthcheck"],
        env={"PLUGIN_RUN_DIR": str(run_dir), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("source", "returncode", "says"),
    [
        ("class Plugin:\n    def validate(self): pass", 0, ""),
        ("raise ValueError('bad')", 1, "the plugin is failed: importing plugin raised ValueError: bad"),
        ("import os; os._exit(3)", 1, "the plugin is exited"),
    ],
    ids=["ready", "failed", "exited"],
)
def test_the_exit_status_says_whether_the_plugin_can_be_used(launch, source, returncode, says):
    runtime = launch(source)
    runtime.settled()
    done = healthcheck(runtime.run_dir)
    assert done.returncode == returncode
    assert says in done.stdout
    assert len(done.stdout.splitlines()) == (1 if says else 0)
    assert done.stderr == ""


def test_a_plugin_that_is_starting_is_healthy(launch):
    runtime = launch("import time; time.sleep(60)")
    runtime.listening()
    assert healthcheck(runtime.run_dir).returncode == 0


def test_nobody_there_is_unhealthy():
    with tempfile.TemporaryDirectory() as folder:
        done = healthcheck(folder)
    assert done.returncode == 1
    assert "does not answer" in done.stdout


def test_the_check_needs_neither_site_packages_nor_the_package(launch):
    """A probe that is slow to import costs every container, every half minute."""
    runtime = launch("class Plugin:\n    def validate(self): pass")
    runtime.settled()
    done = subprocess.run(
        [sys.executable, "-I", "-S", healthcheck_module.__file__],
        env={"PLUGIN_RUN_DIR": str(runtime.run_dir)},
        check=False,
    )
    assert done.returncode == 0
