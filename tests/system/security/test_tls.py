"""The whole orchestrator behind a certificate of its own, which is renewed while callers call."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.certificates import write_certificate
from support.waiting import PATIENCE

from orchestrator.api.tls import CHECK_SECONDS


def environment(tmp_path: Path, port: int, **settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")} | {
        "ORCHESTRATOR_PORT": str(port),
        "ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"),
        "ORCHESTRATOR_RUN_DIR": str(tmp_path / "run"),
        "ORCHESTRATOR_PLUGINS_DIRS": str(tmp_path / "none"),
        "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock",
        **{f"ORCHESTRATOR_{name}": value for name, value in settings.items()},
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def shown(port: int) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


@pytest.mark.slow
async def test_a_certificate_is_renewed_while_callers_call(tmp_path: Path) -> None:
    """No call fails, on new connections or old ones; both certificates are verified, and half a renewal is survived."""
    pairs = [write_certificate(tmp_path / "made", name) for name in ("first", "second")]
    used, key = (
        Path(shutil.copy(pairs[0][0], tmp_path / "tls.pem")),
        Path(shutil.copy(pairs[0][1], tmp_path / "tls.key")),
    )
    port = free_port()
    variables = environment(tmp_path, port, TLS_CERT=str(used), TLS_KEY=str(key))
    command = [sys.executable, "-m", "orchestrator"]
    process = subprocess.Popen([*command, "serve"], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    trusted = ssl.create_default_context()
    for certificate, _ in pairs:
        trusted.load_verify_locations(certificate)
    address, calls, going_on = f"https://127.0.0.1:{port}", 0, True

    async def call(*, anew: bool) -> None:
        nonlocal calls
        async with httpx.AsyncClient(
            verify=trusted,
            trust_env=False,
            timeout=30 * PATIENCE,
            limits=httpx.Limits(max_keepalive_connections=0 if anew else 5),
        ) as client:
            while going_on:
                assert (await client.get(f"{address}/v1/plugins")).status_code == 200
                calls += 1

    try:
        async with asyncio.timeout(60 * PATIENCE):
            while True:
                try:
                    await shown(port)
                    break
                except OSError:
                    assert process.poll() is None
                    await asyncio.sleep(0.05)
        callers = [asyncio.create_task(call(anew=number % 2 == 0)) for number in range(6)]
        assert await shown(port) == ssl.PEM_cert_to_DER_cert(used.read_text())
        shutil.copy(pairs[1][0], used)
        await asyncio.sleep(CHECK_SECONDS + 1)
        assert await shown(port) == ssl.PEM_cert_to_DER_cert(pairs[0][0].read_text()), "half a pair serves nobody"
        shutil.copy(pairs[1][1], key)
        async with asyncio.timeout(10 * CHECK_SECONDS * PATIENCE):
            while await shown(port) != ssl.PEM_cert_to_DER_cert(pairs[1][0].read_text()):
                await asyncio.sleep(0.1)
        before = calls
        while calls < before + 50:
            await asyncio.sleep(0.05)
            assert not any(caller.done() for caller in callers)
        going_on = False
        await asyncio.gather(*callers)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
        healthy = [sys.executable, "-I", "-m", "orchestrator.own_image.healthcheck"]
        checked, listed = (
            subprocess.run(
                arguments,
                env=variables | {"SSL_CERT_FILE": str(used)},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            for arguments in (healthy, [*command, "plugins", "--json"])
        )
        untrusted = subprocess.run(
            [*command, "plugins"], env=variables, capture_output=True, text=True, timeout=120, check=False
        )
        assert untrusted.returncode == 3 and f"The certificate of {address} is not trusted (self" in untrusted.stderr
        assert "SSL_CERT_FILE" in untrusted.stderr and "orchestrator serve" not in untrusted.stderr
        assert checked.returncode == 0
        assert (listed.returncode, listed.stdout.strip()) == (0, "[]"), listed.stderr
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert b"stays in use" in errors and b"was renewed" in errors and f"https://127.0.0.1:{port}".encode() in errors
    assert b"Traceback" not in errors


@pytest.mark.slow
def test_a_certificate_that_cannot_serve_ends_the_start(tmp_path: Path) -> None:
    """With its setting, in one sentence, before anything is bound."""
    certificate, key = write_certificate(tmp_path, "a")
    _, other = write_certificate(tmp_path, "b")
    for settings, phrase in (
        ({"TLS_CERT": str(certificate), "TLS_KEY": str(other)}, "cannot be used"),
        ({"TLS_CERT": str(tmp_path / "none"), "TLS_KEY": str(key)}, "cannot be read"),
        ({"TLS_KEY": str(key)}, "ORCHESTRATOR_TLS_CERT is not"),
    ):
        refused = subprocess.run(
            [sys.executable, "-m", "orchestrator", "serve"],
            env=environment(tmp_path, free_port(), **settings), capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert refused.returncode == 1 and phrase in refused.stderr and "Traceback" not in refused.stderr
