"""A certificate is read from its files, and again when they change; what does not fit replaces nothing."""

import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest
from support.certificates import write_certificate

from orchestrator.api.tls import Certificate, CertificateError


def shown_by(certificate: Certificate) -> bytes:
    """The certificate that a new connection is shown."""
    ours, theirs = socket.socketpair()
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    def serve() -> None:
        with ours, certificate.context.wrap_socket(ours, server_side=True) as served:
            served.recv(1)

    serving = threading.Thread(target=serve)
    serving.start()
    with theirs, client.wrap_socket(theirs) as seen:
        found = seen.getpeercert(binary_form=True)
        seen.send(b".")
    serving.join(10)
    assert found is not None
    return found


def test_new_connections_get_what_was_read_last(tmp_path: Path) -> None:
    """The context stays the same one: the server has it."""
    (first, first_key), (second, second_key) = (write_certificate(tmp_path / "made", name) for name in ("a", "b"))
    used, key = Path(shutil.copy(first, tmp_path)), Path(shutil.copy(first_key, tmp_path))
    certificate = Certificate(used, key)
    context = certificate.context
    assert shown_by(certificate) == ssl.PEM_cert_to_DER_cert(first.read_text())
    assert certificate.load() is False
    shutil.copy(second, used), shutil.copy(second_key, key)
    assert certificate.load() is True and certificate.context is context
    assert shown_by(certificate) == ssl.PEM_cert_to_DER_cert(second.read_text())


def test_half_a_renewal_changes_nothing(tmp_path: Path) -> None:
    """While the one file is new and the other is not, or one is gone, the former pair serves."""
    (first, first_key), (second, second_key) = (write_certificate(tmp_path / "made", name) for name in ("a", "b"))
    used, key = Path(shutil.copy(first, tmp_path)), Path(shutil.copy(first_key, tmp_path))
    certificate = Certificate(used, key)
    for content in (second.read_bytes(), b"", second.read_bytes()[:200]):
        used.write_bytes(content)
        with pytest.raises(CertificateError, match="cannot be used"):
            certificate.load()
        assert shown_by(certificate) == ssl.PEM_cert_to_DER_cert(first.read_text())
    used.unlink()
    with pytest.raises(CertificateError, match="cannot be read"):
        certificate.load()
    assert shown_by(certificate) == ssl.PEM_cert_to_DER_cert(first.read_text())
    shutil.copy(second, used), shutil.copy(second_key, key)
    assert certificate.load() and shown_by(certificate) == ssl.PEM_cert_to_DER_cert(second.read_text())


def test_one_file_may_have_both(tmp_path: Path) -> None:
    """As many tools write it."""
    certificate, key = write_certificate(tmp_path, "a")
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert shown_by(Certificate(both, None)) == ssl.PEM_cert_to_DER_cert(certificate.read_text())


def test_a_key_with_a_password_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Nobody is there to type it."""
    with pytest.raises(CertificateError, match="has a password"):
        Certificate(*write_certificate(tmp_path, "a", password="secret"))
