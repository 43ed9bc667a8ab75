"""nginx, as Debian ships it: the proxy that an operator would otherwise put before a plugin's socket."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.nginx import PROGRAM

from benchmarks.processes import free_port, until_it_listens, watched_process

_CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
{user}
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    upstream plugin {{ server unix:{socket}; keepalive 32; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://plugin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }}
    }}
}}
"""


@contextmanager
def nginx(socket: Path) -> Iterator[str | None]:
    """Yield a target that passes everything on to the socket; None without nginx."""
    if PROGRAM is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-") as folder:
        user = "user root;" if os.geteuid() == 0 else ""  # the sockets' folder is closed to all others
        text = _CONFIGURATION.format(folder=folder, socket=socket, port=port, user=user)
        (Path(folder) / "nginx.conf").write_text(text)
        with watched_process([PROGRAM, "-p", folder, "-c", f"{folder}/nginx.conf", "-e", "stderr"]) as process:
            until_it_listens(port, process)
            yield f"tcp:127.0.0.1:{port}"
