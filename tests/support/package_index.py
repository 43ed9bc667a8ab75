"""A package index with a password, on this host's address in the engine's network; and small wheels."""

import base64
import io
import ipaddress
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import docker


def wheel(name: str, version: str, *, requires: str = "", size: int = 0) -> tuple[str, bytes]:
    """File name and content of a wheel with one module; `size`: bytes of data in it."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n",
        f"{name}/data.bin": "x" * size,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return f"{name}-{version}-py3-none-any.whl", content.getvalue()


@dataclass
class Index:
    """An index that serves `wheels` to those who know the password."""

    user: str
    password: str
    host: str
    port: int
    wheels: dict[str, bytes] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    """Paths that were served, in order."""

    @property
    def url(self) -> str:
        return f"http://{self.user}:{self.password}@{self.host}:{self.port}/simple"

    def add(self, name: str, version: str, *, requires: str = "", size: int = 0) -> None:
        file, content = wheel(name, version, requires=requires, size=size)
        self.wheels[file] = content

    def answer(self, path: str) -> bytes | None:
        kind, _, name = path.strip("/").partition("/")
        if kind == "files":
            return self.wheels.get(name)
        files = [file for file in self.wheels if file.split("-")[0].replace("_", "-") == name]
        links = "".join(f'<a href="/files/{file}">{file}</a>' for file in files)
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if files else None


@contextmanager
def package_index(user: str, password: str, *, cache_control: str = "max-age=600") -> Iterator[Index]:
    """The index, as long as the context lasts. `cache_control`: the header of its answers, none where empty."""
    engine = docker.from_env()
    try:
        podman = "Podman" in str(engine.version().get("Components"))
        network = engine.networks.get("podman" if podman else "bridge").attrs["IPAM"]["Config"][0]
    finally:
        engine.close()
    host = network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])
    token = base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == f"Basic {token}"
            body = index.answer(self.path) if known else None
            if body is not None:
                index.served.append(self.path)
            self.send_response(200 if body is not None else 404 if known else 401)
            if not known:
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Type", "text/html" if self.path.startswith("/simple") else "application/zip")
            if cache_control:
                self.send_header("Cache-Control", cache_control)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((host, 0), Handler) as server:
        index = Index(user, password, host, server.server_port)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
