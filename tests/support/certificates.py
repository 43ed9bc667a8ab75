"""Certificates for 127.0.0.1 that sign themselves, made by openssl."""

import subprocess
from pathlib import Path


def write_certificate(folder: Path, name: str, *, password: str = "") -> tuple[Path, Path]:
    """Write `<name>.pem` and `<name>.key`; returns both paths. `name` is the certificate's common name."""
    folder.mkdir(exist_ok=True, parents=True)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2",
            "-subj", f"/CN={name}",
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", certificate, "-keyout", key,
            *(("-passout", f"pass:{password}") if password else ("-noenc",)),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key
