"""A pull brings the right bytes or none, whatever the server does."""

import errno
import os
import shutil
import socket
import subprocess
import threading
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from support.file_server import (
    Answer,
    FileServer,
    chunked,
    cut_after,
    instead,
    lying,
    right,
    shifted,
    silent,
    status,
    without_length,
)

from orchestrator.models import plan, transfer
from orchestrator.models.credentials import NetrcError
from orchestrator.models.plan import SPACE_RESERVE
from orchestrator.models.pull import Progress, PullError
from orchestrator.models.store import ModelStore, ModelStoreError
from orchestrator.models.transfer import http_client

from .conftest import CONTENT, SHA256, Pulls

HALF = len(CONTENT) // 2


def test_a_file_is_fetched_once(pull: Pulls, server: FileServer) -> None:
    """It is there under its hash, for all to read and for nobody to write."""
    assert pull(server.url) == "fetched"
    assert pull.right
    path = pull.store.find(SHA256)
    assert path is not None and path.stat().st_mode & 0o777 == 0o444
    assert pull(server.url) == "present"
    assert len(server.requests) == 1
    assert server.requests[0]["accept-encoding"] == "identity"
    assert pull.told.steps[-1] == Progress("fetching", len(CONTENT), len(CONTENT))


def test_a_connection_that_breaks_is_continued(pull: Pulls, server: FileServer) -> None:
    """From the byte where it broke, on condition that the file is the same."""
    server.next(cut_after(1000), cut_after(HALF))
    assert pull(server.url) == "fetched"
    assert pull.right
    assert server.ranges == [None, "bytes=1000-", f"bytes={1000 + HALF}-"]
    assert [request.get("if-range") for request in server.requests] == [None, '"1"', '"1"']
    assert len(pull.slept) == 2 and "trying again in 0.5 s" in pull.told.notes[0]


def test_a_server_without_ranges_starts_anew(pull: Pulls, server: FileServer) -> None:
    """It answers 200 to a request for the rest."""
    server.ranged = False
    server.next(cut_after(HALF))
    assert pull(server.url) == "fetched"
    assert pull.right and server.ranges == [None, f"bytes={HALF}-"]


def test_a_file_that_changed_meanwhile_starts_anew(pull: Pulls, server: FileServer) -> None:
    """Its tag is another one: the old half and the new half are never one file."""
    server.content, server.etag = b"\0" * len(CONTENT), '"0"'
    server.next(cut_after(HALF))

    def changed(handler: object) -> None:
        server.content, server.etag = CONTENT, '"2"'
        right(handler)  # type: ignore[arg-type]

    server.next(changed)
    assert pull(server.url) == "fetched"
    assert pull.right and server.ranges == [None, f"bytes={HALF}-"]


def test_a_file_that_changed_unnoticed_starts_anew(pull: Pulls, server: FileServer) -> None:
    """Without a tag the hash finds it."""
    server.content, server.etag = b"\0" * len(CONTENT), ""
    server.next(cut_after(HALF))

    def changed(handler: object) -> None:
        server.content = CONTENT
        right(handler)  # type: ignore[arg-type]

    server.next(changed)
    assert pull(server.url) == "fetched"
    assert pull.right and server.ranges == [None, f"bytes={HALF}-", None]
    assert "starting anew" in pull.told.notes[-1]


@pytest.mark.parametrize(
    "answer",
    [
        status(503, Retry_After=7),
        status(500),
        status(429),
        cut_after(0),
        chunked,
        lying(len(CONTENT) + 1),
    ],
    ids=["503", "500", "429", "nothing", "chunked and cut", "too long"],
)
def test_what_may_pass_is_tried_again(pull: Pulls, server: FileServer, answer: Answer) -> None:
    server.next(answer)
    assert pull(server.url) == "fetched"
    assert pull.right and len(pull.slept) == 1


def test_a_server_says_when_to_come_back(pull: Pulls, server: FileServer) -> None:
    server.next(status(503, Retry_After=7))
    pull(server.url)
    assert pull.slept == [7]


def test_what_does_not_pass_is_given_up(pull: Pulls, server: FileServer) -> None:
    """After attempts that bring nothing new, with growing delays; not after the first that does."""
    server.default = cut_after(0)
    server.next(cut_after(10), cut_after(10))
    with pytest.raises(PullError, match="connection"):
        pull(server.url)
    assert pull.slept == [0.5, 0.5, 1, 2, 4, 8]
    assert pull.store.files() == []
    # What came stays for the next time.
    server.default = right
    assert pull(server.url) == "fetched" and server.ranges[-1] == "bytes=20-"


@pytest.mark.parametrize("number", [401, 403, 404, 410, 400, 302])
def test_what_will_not_pass_is_not_tried_again(pull: Pulls, server: FileServer, number: int) -> None:
    server.default = status(number)
    with pytest.raises(PullError, match=str(number)):
        pull(server.url)
    assert len(server.requests) == 1 and pull.slept == [] and pull.empty


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (instead(b"<html>please log in</html>"), 26),
        (instead(CONTENT + b"x"), len(CONTENT) + 1),
        (instead(b""), 0),
        (lying(HALF), HALF),
        (without_length(HALF), HALF),
    ],
    ids=["a web page", "too long", "empty", "a length too small", "cut, of unknown length"],
)
def test_wrong_bytes_are_thrown_away_and_told(pull: Pulls, server: FileServer, answer: Answer, size: int) -> None:
    """Expected, got, from where, how many; nothing of them stays."""
    server.default = answer
    with pytest.raises(PullError) as caught:
        pull(server.url)
    assert f"expected SHA-256 {SHA256}, got " in str(caught.value)
    assert f"({size} bytes, thrown away)" in str(caught.value) and server.url in str(caught.value)
    assert len(server.requests) == 1 and pull.empty


def test_a_file_of_unknown_length_is_fetched(pull: Pulls, server: FileServer) -> None:
    server.next(without_length())
    assert pull(server.url) == "fetched" and pull.right


def test_a_range_that_begins_elsewhere_is_not_appended(pull: Pulls, server: FileServer) -> None:
    server.next(cut_after(HALF), shifted(-5))
    assert pull(server.url) == "fetched" and pull.right
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_more_bytes_than_the_file_has_are_thrown_away(pull: Pulls, server: FileServer) -> None:
    """An earlier pull of wrong bytes left them; the server answers 416."""
    with pull.store.open_partial(SHA256) as partial:
        partial.append(b"\0" * (len(CONTENT) + 5))
    assert pull(server.url) == "fetched" and pull.right
    assert server.ranges == [f"bytes={len(CONTENT) + 5}-", None]


def test_a_part_of_an_earlier_pull_is_used(pull: Pulls, server: FileServer) -> None:
    """It is hashed first, and shown as that."""
    with pull.store.open_partial(SHA256) as partial:
        partial.append(CONTENT[:HALF])
    assert pull(server.url) == "fetched" and pull.right
    assert server.ranges == [f"bytes={HALF}-"]
    assert Progress("checking", HALF, HALF) in pull.told.steps


def test_a_pull_that_ended_before_its_last_step_needs_no_server(pull: Pulls) -> None:
    with pull.store.open_partial(SHA256) as partial:
        partial.append(CONTENT)
    assert pull("http://127.0.0.1:1/w") == "fetched" and pull.right


def test_a_wrong_part_of_an_earlier_pull_costs_a_second_attempt(pull: Pulls, server: FileServer) -> None:
    """As after a crash of the machine, which may leave zeros: the address is not blamed for them."""
    with pull.store.open_partial(SHA256) as partial:
        partial.append(b"\0" * HALF)
    assert pull(server.url) == "fetched" and pull.right
    assert server.ranges == [f"bytes={HALF}-", None]


def test_flaky_and_wrong_ends(pull: Pulls, server: FileServer) -> None:
    """Wrong bytes in pieces are not fetched for ever."""
    server.content = b"\0" * len(CONTENT)
    server.next(cut_after(HALF), right, cut_after(HALF), right, cut_after(HALF), right)
    with pytest.raises(PullError, match="other bytes"):
        pull(server.url)
    assert len(server.requests) == 4 and pull.empty


def test_mirrors_are_tried_in_their_order(pull: Pulls, server: FileServer) -> None:
    """The next goes on from what the one before brought."""
    with FileServer(CONTENT, etag='"other"') as first:
        first.next(cut_after(HALF))
        first.default = status(404)
        assert pull(first.url, server.url) == "fetched"
    assert pull.right and server.ranges == [f"bytes={HALF}-"]
    assert "if-range" not in server.requests[0]
    assert "trying the next address" in pull.told.notes[-1]


def test_when_no_mirror_has_it_each_is_named_with_its_reason(pull: Pulls, server: FileServer) -> None:
    server.default = instead(b"other")
    with FileServer(b"", etag="") as first:
        first.default = status(404)
        with pytest.raises(PullError) as caught:
            pull(first.url, server.url, "file:///nowhere/w.onnx")
    sentence = str(caught.value)
    assert "it has no such file (404)" in sentence and "it has other bytes" in sentence
    assert "file:///nowhere/w.onnx: it cannot be opened: No such file or directory" in sentence


def test_redirects_are_followed(pull: Pulls, server: FileServer) -> None:
    with FileServer(b"") as front:
        front.default = status(302, Location=server.url)
        assert pull(front.url) == "fetched" and pull.right


def test_redirects_end(pull: Pulls, server: FileServer) -> None:
    server.default = status(302, Location="/again")
    with pytest.raises(PullError, match="more than 10 times"):
        pull(server.url)
    assert len(server.requests) == 11


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://host/w", "//", "http://["])
def test_redirects_lead_nowhere_else(pull: Pulls, server: FileServer, to: str) -> None:
    server.default = status(302, Location=to)
    with pytest.raises(PullError):
        pull(server.url)
    assert pull.empty


def test_a_silent_server_is_left(pull: Pulls, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_TIMEOUT", httpx.Timeout(0.2))
    server.next(silent)
    with http_client(None) as client:
        again = Pulls(pull.store, client)
        assert again(server.url) == "fetched" and "timed out" in again.told.notes[0]


def test_nobody_listening_is_told(pull: Pulls) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(PullError, match="refused"):
            pull(f"http://127.0.0.1:{taken.getsockname()[1]}/w")
    assert pull.empty


def test_credentials_are_sent_and_never_shown(pull: Pulls, server: FileServer) -> None:
    """Neither in notes and errors nor in what the store keeps of a partial file."""
    url = server.url.replace("http://", "http://user:hunter2@") + "?token=hunter2"
    server.next(cut_after(HALF))
    server.default = status(403)
    with pytest.raises(PullError) as caught:
        pull(url)
    assert server.requests[0]["authorization"].startswith("Basic ")
    kept = [path.read_bytes() for path in (pull.store.root / "partial").iterdir()]
    assert len(kept) == 2 and not any(b"hunter2" in text for text in kept)
    assert "hunter2" not in f"{caught.value} {pull.told.notes}" and "127.0.0.1" in str(caught.value)


# Through TLS and proxies


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, and its key, in one file."""
    path = tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*new, "-keyout", path, "-out", tmp_path / "public.pem"], check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "public.pem").read_text())
    return path


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@needs_openssl
def test_a_certificate_is_trusted_by_the_operators_bundle_alone(pull: Pulls, certificate: Path) -> None:
    """Without it the pull is refused at once, with the setting's name."""
    with FileServer(CONTENT, certificate=certificate) as server:
        with pytest.raises(PullError, match=r"certificate is not trusted.*ORCHESTRATOR_CA_BUNDLE"):
            pull(server.url)
        assert pull.slept == [] and pull.empty
        with http_client(certificate) as client:
            again = Pulls(pull.store, client)
            assert again(server.url) == "fetched" and again.right


@needs_openssl
@pytest.mark.parametrize("source", ["address", "token", "netrc", "NETRC", "none"])
def test_a_host_is_sent_its_credentials(
    pull: Pulls, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """Those in the address first, then its token, then netrc's; a redirect to another host takes none along."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    if source in ("netrc", "NETRC"):
        path = tmp_path / (".netrc" if source == "netrc" else "elsewhere")
        path.write_text("machine 127.0.0.1 login ada password s3cret\ndefault login x password y\n")
        path.chmod(0o600)
        if source == "NETRC":
            monkeypatch.setenv("NETRC", str(path))
    tokens = {"127.0.0.1": "t0ken"} if source in ("address", "token") else {}
    with (
        FileServer(CONTENT, certificate=certificate) as server,
        FileServer(CONTENT, certificate=certificate) as front,
        http_client(certificate, tokens) as client,
    ):
        front.next(status(302, Location=server.url.replace("127.0.0.1", "localhost")))
        url = front.url.replace("//", "//ada:s3cret@") if source == "address" else front.url
        assert Pulls(pull.store, client)(url) == "fetched"
        sent = [request.get("authorization") for request in (*front.requests, *server.requests)]
    expected = {"token": "Bearer t0ken", "none": None}
    assert sent == [expected.get(source, f"Basic {b64encode(b'ada:s3cret').decode()}"), None]


def test_over_http_nothing_is_sent(pull: Pulls, server: FileServer) -> None:
    """Who listens would have the token."""
    with http_client(None, {"127.0.0.1": "t0ken"}) as client:
        Pulls(pull.store, client)(server.url)
    assert [request.get("authorization") for request in server.requests] == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [("machine h login ada passwd s3cret", "line 1"), (None, "does not exist")],
)
def test_a_netrc_that_cannot_be_read_is_told_without_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    if content is not None:
        path.write_text(content)
    with pytest.raises(NetrcError, match=message) as raised:
        http_client(None)
    assert str(path) in str(raised.value) and "s3cret" not in str(raised.value)


def test_a_server_that_trickles_is_given_up(pull: Pulls, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many windows as other errors have attempts, though each brings a little; what came stays, and another
    address goes on from there.
    """
    monkeypatch.setattr(plan, "RATE_WINDOW", 0.05)
    monkeypatch.setattr(plan, "MIN_RATE", 100_000)
    server.rate = 1000
    with pytest.raises(PullError, match=r"it sends less than 97\.7 KiB a second"):
        pull(server.url)
    assert len(server.requests) == plan.MAX_RETRIES + 1
    (partial,) = pull.store.partials()
    assert 0 < partial.size < len(CONTENT)
    with FileServer(CONTENT) as mirror:
        assert pull(server.url, mirror.url) == "fetched" and pull.right
        assert mirror.ranges[0] is not None


@needs_openssl
def test_a_redirect_never_leads_from_https_to_http(pull: Pulls, server: FileServer, certificate: Path) -> None:
    with FileServer(b"", certificate=certificate) as front, http_client(certificate) as client:
        front.default = status(302, Location=server.url)
        with pytest.raises(PullError, match="which is not followed"):
            Pulls(pull.store, client)(front.url)
    assert server.requests == []


def test_the_proxy_of_the_environment_is_used(pull: Pulls, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for builds; its address may have credentials."""
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("http://", "http://proxy:hunter2@"))
    server.next(cut_after(HALF))
    with http_client(None) as client:
        again = Pulls(pull.store, client)
        assert again("http://nowhere.example/w.onnx") == "fetched" and again.right
    assert len(server.requests) == 2 and server.requests[0]["proxy-authorization"].startswith("Basic ")
    assert "hunter2" not in f"{again.told.notes}"


# From files


def test_a_file_of_this_machine_is_copied(pull: Pulls, tmp_path: Path) -> None:
    """Not linked: whoever changes the original changes nothing here."""
    (tmp_path / "my weights").write_bytes(CONTENT)
    assert pull(f"file://{tmp_path}/my%20weights") == "fetched" and pull.right
    (tmp_path / "my weights").write_bytes(b"other")
    assert pull.right


def test_a_copy_goes_on_too(pull: Pulls, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(CONTENT)
    with pull.store.open_partial(SHA256) as partial:
        partial.append(CONTENT[:HALF])
    assert pull(f"file://{tmp_path}/w") == "fetched" and pull.right
    assert next(step.done for step in pull.told.steps if step.phase == "fetching") > HALF


def test_what_is_no_file_is_refused(pull: Pulls, tmp_path: Path) -> None:
    """A pipe would block, a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(PullError, match="not a regular file"):
            pull(f"file://{path}")
    assert pull.empty


# The disk


def _free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_disk_that_is_too_small_is_told_before(
    pull: Pulls, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of the file is written."""
    _free(monkeypatch, SPACE_RESERVE + len(CONTENT) - 1)
    with pytest.raises(ModelStoreError, match=r"too little space: 1 MiB of .* 1 B too much"):
        pull(server.url)
    assert pull.empty
    _free(monkeypatch, SPACE_RESERVE + len(CONTENT))
    assert pull(server.url) == "fetched"


def test_a_file_of_unknown_length_does_not_fill_the_disk(
    pull: Pulls, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_SPACE_INTERVAL", HALF)
    server.default = without_length()
    _free(monkeypatch, 0)
    with pytest.raises(ModelStoreError, match="too little space"):
        pull(server.url)
    assert pull.store.files() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_when_it_happens(
    pull: Pulls, server: FileServer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What was written stays, and the next pull goes on from there."""
    write, room = os.pwrite, [HALF]

    def pwrite(descriptor: int, data: bytes, at: int) -> int:
        if at >= room[0]:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data[: room[0] - at], at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(ModelStoreError, match=r"is full.*goes on where it stopped"):
        pull(server.url)
    room[0] = len(CONTENT)
    assert pull(server.url) == "fetched" and pull.right
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_store_that_cannot_be_written_is_told(pull: Pulls, server: FileServer) -> None:
    pull.store.root.write_text("a file")
    with pytest.raises(ModelStoreError, match=r"cannot be used: .*ORCHESTRATOR_MODELS_DIR"):
        pull(server.url)


# Several at once


def test_two_pulls_at_once_are_one(store: ModelStore, server: FileServer, client: httpx.Client) -> None:
    """The second waits, and shows how far the first is."""
    started, go_on = threading.Event(), threading.Event()

    def slow(handler: object) -> None:
        body = handler.start()  # type: ignore[attr-defined]
        handler.wfile.write(body[:HALF])  # type: ignore[attr-defined]
        started.set()
        go_on.wait(30)
        handler.wfile.write(body[HALF:])  # type: ignore[attr-defined]

    server.next(slow)
    first, second = Pulls(store, client), Pulls(store, client)
    outcomes: list[str] = []
    one = threading.Thread(target=lambda: outcomes.append(first(server.url)))
    one.start()
    assert started.wait(30)

    def wait(seconds: float) -> None:
        if any(step.done >= HALF for step in second.told.steps):
            go_on.set()
        go_on.wait(seconds)

    second._puller.sleep = wait
    assert second(server.url) == "waited"
    one.join()
    assert outcomes == ["fetched"] and first.right and len(server.requests) == 1
    assert {step.phase for step in second.told.steps} == {"waiting"}
    assert Progress("waiting", HALF, len(CONTENT)) in second.told.steps
    assert second.told.notes == ["another pull fetches it already: waiting for that"]


def test_a_pull_takes_over_from_one_that_fails(pull: Pulls, server: FileServer) -> None:
    """It goes on from what that brought."""
    partial = pull.store.open_partial(SHA256)
    assert partial is not None
    partial.append(CONTENT[:HALF])
    pull._puller.sleep = lambda _: partial.__exit__()
    assert pull(server.url) == "fetched"
    assert pull.right and server.ranges == [f"bytes={HALF}-"]
