"""Advice, error line and log of a build."""

from pathlib import Path

import pytest

from orchestrator.loader.build_report import BuildLog, conflict, error_line, hint

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
LEGACY = """\
      error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory
      [end of output]
  note: This error originates from a subprocess, and is likely not a problem with pip.
error: legacy-install-failure

\N{MULTIPLICATION SIGN} Encountered error while trying to install package.
╰─> pycocotools

note: This is an issue with the package mentioned above, not pip.
"""
NO_WHEEL = """\
  Building wheel for nes-py (setup.py): finished with status 'error'
  ERROR: Failed building wheel for nes-py
Failed to build nes-py
error: failed-wheel-build-for-install

\N{MULTIPLICATION SIGN} Failed to build installable wheels for some pyproject.toml based projects
╰─> nes-py, pycocotools
"""
NO_HEADERS = "src/a.c:1:10: fatal error: Python.h: No such file or directory"
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
        (LEGACY, "system_packages in plugin.yaml (build-essential, python3-dev"),
        (NO_WHEEL, "build-essential, python3-dev"),
        (NO_HEADERS, "python3-dev"),
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
        (LEGACY, "pip could not install pycocotools (legacy-install-failure)"),
        (NO_WHEEL, "pip could not install nes-py, pycocotools (failed-wheel-build-for-install)"),
        ("nothing of note", ""),
    ],
)
def test_the_error_line_is_the_tools_own(output, line):
    assert error_line(output) == line


RUNTIME = {"plugin-runtime", "msgspec", "python-multipart"}
DIRECT = """\
ERROR: Cannot install python-multipart==0.0.9 because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested python-multipart==0.0.9
    The user requested (constraint) python-multipart==0.0.34

To fix this you could try to:
1. loosen the range of package versions you've specified"""
INDIRECT = """\
The conflict is caused by:
    gradio 5.4.0 depends on python-multipart==0.0.12
    gradio 5.3.0 depends on python_multipart<0.0.13 and >=0.0.9
    gradio 5.2.0 depends on python-multipart<0.0.13 and >=0.0.9
    The user requested (constraint) python-multipart==0.0.34

Additionally, some packages in these conflicts have no matching distributions available for your environment:
    python-multipart"""
WHEEL = """\
The conflict is caused by:
    The user requested msgspec 0.18.0 (from /plugin/vendor/msgspec-0.18.0-py3-none-any.whl)
    The user requested (constraint) msgspec==0.22.0
"""
AMONG_THEMSELVES = """\
The conflict is caused by:
    The user requested numpy==1.0
    a 1.0 depends on numpy>=2
"""
OWN_CONSTRAINT = """\
The conflict is caused by:
    The user requested numpy==1.0
    The user requested (constraint) numpy==2.0
"""


@pytest.mark.parametrize(
    ("output", "sides"),
    [
        (DIRECT, "requirements.txt wants python-multipart==0.0.9, and the runtime in this image needs "),
        (
            INDIRECT,
            "gradio 5.4.0 (which requirements.txt installs) wants python-multipart==0.0.12 and gradio 5.3.0",
        ),
        (WHEEL, "requirements.txt wants msgspec 0.18.0 (from /plugin/vendor/msgspec-0.18.0-py3-none-any.whl), and the"),
    ],
)
def test_a_clash_with_the_runtimes_packages_names_both_sides(output, sides):
    said = conflict(output.splitlines(), RUNTIME)
    assert said is not None and said.startswith(sides)
    assert ("(and 1 more), and the runtime" in said) is (output == INDIRECT)
    assert "which cannot be replaced. Remove it from requirements.txt, or require a version of it" in said


@pytest.mark.parametrize("output", [AMONG_THEMSELVES, OWN_CONSTRAINT, PIP_UNKNOWN, ""])
def test_any_other_conflict_is_none_with_the_runtime(output):
    assert conflict(output.splitlines(), RUNTIME) is None


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
