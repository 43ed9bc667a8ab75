"""nginx before an orchestrator, as Debian ships it, with its defaults: buffering, 60 s of patience, 1 MB a body."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from benchmarks.processes import free_port, until_it_listens, watched_process

_UNPACKED: Final = Path(__file__).parents[2] / ".venv-tools" / "bin" / "nginx"
PROGRAM: Final = (
    shutil.which("nginx")
    or shutil.which("nginx", path="/usr/sbin:/sbin")
    or (str(_UNPACKED) if _UNPACKED.exists() else None)
)
needs_nginx = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed; `make test-tools` unpacks it")

# Beside what it needs to run from a temporary folder, only what Debian's own nginx.conf sets, and `proxy_pass`.
_CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    gzip on;
    server {{
        listen 127.0.0.1:{port};
        {settings}
        location / {{ proxy_pass {upstream}; }}
    }}
}}
"""


@contextmanager
def nginx_before(upstream: str, settings: str = "") -> Iterator[str]:
    """Yield the address of an nginx that passes everything on to `upstream`. `settings`: of its server."""
    assert PROGRAM is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-") as folder:
        text = _CONFIGURATION.format(folder=folder, port=port, upstream=upstream, settings=settings)
        if os.geteuid() == 0:
            text = f"user root;\n{text}"  # the folder is closed to all others
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(text)
        with watched_process([PROGRAM, "-p", folder, "-c", str(configuration), "-e", "stderr"]) as process:
            until_it_listens(port, process)
            yield f"http://127.0.0.1:{port}"
