"""uv, as `make python-env` runs it: with the host's index and certificates."""

import os
import shutil
import subprocess

from support.checkout import PROJECT


class UvError(Exception):
    """uv failed; the message is what it wrote."""


def run_uv(*arguments: object, seconds: float = 280, **variables: str) -> str:
    """Run it in the checkout; return its output. Raises UvError."""
    bundled = PROJECT / ".venv-tools" / "bin" / "uv"
    program = str(bundled) if bundled.exists() else shutil.which("uv")
    if program is None:
        raise UvError("there is no uv: `make python-env` installs it")
    index = os.environ.get("PIP_INDEX_URL")
    environment = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    environment.setdefault("UV_SYSTEM_CERTS", "true")
    if bundle := os.environ.get("ORCHESTRATOR_CA_BUNDLE"):
        environment["SSL_CERT_FILE"] = bundle
    environment.pop("VIRTUAL_ENV", None)
    try:
        done = subprocess.run(
            [program, *map(str, arguments)],
            env=environment | variables,
            cwd=PROJECT,
            text=True,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UvError(f"uv did not end within {seconds:.0f} s") from error
    if done.returncode:
        raise UvError(done.stderr.strip())
    return done.stdout
