"""The operator's file of webhooks: what it may say, and what is said of mistakes in it."""

from pathlib import Path

import pytest
from support.webhook_receiver import SECRET

from orchestrator.webhooks.config import EVENT_TYPES, WebhooksFileError, load_webhooks

GOOD = """
- name: pager
  url: https://user:pass@example.org:8443/hooks/x?token=hidden
  secret_file: pager.secret
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "pager.secret").write_text(f"{SECRET}\n")
    return tmp_path / "webhooks.yaml"


def test_no_file_has_none() -> None:
    assert load_webhooks(None) == ()


def test_the_least_that_one_needs(file: Path) -> None:
    file.write_text(GOOD)
    (webhook,) = load_webhooks(file)
    assert (webhook.name, webhook.events, webhook.plugins) == ("pager", EVENT_TYPES, ("*",))
    assert webhook.url == "https://user:pass@example.org:8443/hooks/x?token=hidden"
    assert webhook.shown_url == "https://example.org:8443/hooks/x?…"
    assert "pass" not in repr(webhook) and "hidden" not in repr(webhook)


def test_all_that_one_may_have(file: Path) -> None:
    file.write_text(GOOD + "  events: [plugin.failed]\n  plugins: ['det-*', ocr]\n")
    (webhook,) = load_webhooks(file)
    assert webhook.wants("plugin.failed", "det-faces") and webhook.wants("plugin.failed", "ocr")
    assert not webhook.wants("run.finished", "ocr") and not webhook.wants("plugin.failed", "other")


def test_a_secret_that_is_changed_has_both(file: Path) -> None:
    (file.parent / "pager.secret").write_text(f"{SECRET}\n{SECRET.swapcase().replace('WHSEC', 'whsec')}\n")
    file.write_text(GOOD)
    assert len(load_webhooks(file)[0].keys) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a list of webhooks"),
        ("name: pager", "expected a list of webhooks"),
        ("- name: [", "is not valid YAML"),
        (GOOD.replace("pager\n", "Pager!\n", 1), "line 2: name: 'Pager!' does not fit"),
        (GOOD.replace("https://user", "ftp://user"), "line 2: url: expected an address"),
        (GOOD.replace("https://user:pass@example.org:8443", "https://"), "line 2: url: expected an address"),
        (GOOD.replace(":8443", ":99999999"), "line 2: url: expected an address"),
        (GOOD.replace("secret_file: pager.secret", "secret: 123"), "line 2: secret_file: required field is missing"),
        (GOOD + "  colour: red\n", "line 2: colour: unknown field"),
        (GOOD + "  events: [run.began]\n", "line 2: events"),
        (GOOD + "  events: []\n", "line 2: events"),
        (GOOD + "  plugins: ['UPPER']\n", "line 2: plugins: expected names of plugins or patterns"),
        (GOOD + GOOD, "line 6: name: 'pager' is the name of another webhook too"),
        (GOOD.replace("pager.secret", "none.secret"), "none.secret cannot be read: No such file"),
        ("\n" * 3 + GOOD.replace("pager.secret", "/"), "line 5: secret_file: / cannot be read"),
        (GOOD * 17, "at most 16"),
        ("- https://user:pass@example.org/?token=hidden\n", "line 1: expected fields such as `name: pager`"),
        (GOOD.replace("pager.secret", SECRET), "secret_file: expected the path of a file that has the secret"),
        (GOOD.replace("secret_file: pager.secret", f"secret: {SECRET}"), "line 2: secret"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(WebhooksFileError) as refused:
        load_webhooks(file)
    sentence = str(refused.value)
    assert said in sentence and str(file) in sentence and sentence.startswith("ORCHESTRATOR_WEBHOOKS: ")
    assert "hidden" not in sentence and "user:pass" not in sentence and SECRET not in sentence


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe", f"{SECRET}\n".encode() * 5])
def test_a_file_without_a_secret_is_named_and_not_shown(file: Path, content: bytes) -> None:
    (file.parent / "pager.secret").write_bytes(content)
    file.write_text(GOOD)
    with pytest.raises(WebhooksFileError, match=r"line 2: secret_file: .*pager\.secret") as refused:
        load_webhooks(file)
    assert "short" not in str(refused.value) and SECRET not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WebhooksFileError, match=r"none\.yaml: expected a file\. Correct"):
        load_webhooks(tmp_path / "none.yaml")
