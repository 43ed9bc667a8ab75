"""Advice, error line and log of a build."""

from pathlib import Path

import pytest

from orchestrator.loader.build_report import BuildLog, error_line, hint

PIP_OFFLINE = """\
WARNING: Retrying after connection broken by 'NewConnectionError(': Failed to establish a new connection:
[Errno -3] Temporary failure in name resolution')': /simple/numpy/
ERROR: Could not find a version that satisfies the requirement numpy (from versions: none)
ERROR: No matching distribution found for numpy"""
PIP_CERTIFICATE = """\
Could not fetch URL https://index.example/simple/numpy/: There was a problem confirming the ssl certificate:
(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate'))
ERROR: No matching distribution found for numpy"""
PIP_UNKNOWN = "ERROR: No matching distribution found for no-such-thing==9"
APT_UNKNOWN = "Reading package lists...\nE: Unable to locate package libnothing"
APT_OFFLINE = "Err:1 http://mirror.example bookworm InRelease\n  Temporary failure resolving 'mirror.example'"
COMPILER = "error: command 'gcc' failed: No such file or directory\nERROR: Failed building wheel for x"
DISK = "OSError: [Errno 28] No space left on device"
PROXY = "ERROR: 407 Proxy Authentication Required"
NO_IMAGE = "pull access denied for plugin-orchestrator/python, repository does not exist"


@pytest.mark.parametrize(
    ("output", "word"),
    [
        (PIP_OFFLINE, "HTTPS_PROXY"),
        (PIP_CERTIFICATE, "ORCHESTRATOR_CA_BUNDLE"),
        (PIP_UNKNOWN, "requirements.txt"),
        (APT_UNKNOWN, "system_packages"),
        (APT_OFFLINE, "HTTPS_PROXY"),
        (COMPILER, "build-essential"),
        (DISK, "disk is full"),
        (PROXY, "proxy refused"),
        (NO_IMAGE, "make up"),
    ],
)
def test_a_known_failure_has_advice(output, word):
    assert word in hint(output)
    assert "\n" not in hint(output)


def test_an_unknown_failure_has_no_advice():
    assert hint("Segmentation fault") == ""


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (PIP_UNKNOWN, "No matching distribution found for no-such-thing==9"),
        (APT_UNKNOWN, "Unable to locate package libnothing"),
        ("nothing of note", ""),
    ],
)
def test_the_error_line_is_the_tools_own(output, line):
    assert error_line(output) == line


def test_the_previous_builds_log_is_retained(tmp_path: Path):
    for text in ("first", "second", "third"):
        with BuildLog(tmp_path / "logs", "ocr") as log:
            log.write(text)
    assert (tmp_path / "logs" / "ocr.log").read_text() == "third\n"
    assert (tmp_path / "logs" / "ocr.log.1").read_text() == "second\n"


def test_a_log_that_cannot_be_written_fails_nothing(tmp_path: Path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    with BuildLog(tmp_path / "logs", "ocr") as log:
        log.write("lost")
