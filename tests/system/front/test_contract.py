"""What callers rely on holds through a front over one host: the same tests, unchanged, in a run of their own."""

import subprocess
import sys

import pytest
from support.checkout import PROJECT

SUITES = [
    "tests/test_plugin_health_api",
    "tests/test_tool_runner/test_asynchronous_runs.py",
    "tests/test_tool_runner/test_bodies.py",
    "tests/test_tool_runner/test_cancelling.py",
    "tests/test_tool_runner/test_request_headers.py",
    "tests/test_tool_runner/test_run_files.py",
    "tests/test_tool_runner/test_runs.py",
    "tests/test_tool_runner/test_shares.py",
    "tests/test_tool_runner/test_streams.py",
    "tests/system/events",
    "tests/system/security/test_rights.py",
    "tests/system/security/test_origins_and_proxies.py",
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contracts_tests_pass_through_a_front() -> None:
    """`--through-front` for any others."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--through-front", *SUITES]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-8000:]
    assert int(ended.stdout.rpartition(" passed")[0].split()[-1]) > 200, ended.stdout[-300:]
