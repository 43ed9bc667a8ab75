"""The page and its assets: served under strict rules, with nothing from elsewhere."""

import re
from pathlib import Path

import pytest
from support.harness import Harness

import orchestrator.dashboard

STATIC = Path(orchestrator.dashboard.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir())


async def test_the_page_comes_with_rules_that_allow_its_own_files_only(harness: Harness) -> None:
    client = await harness.open()
    answer = await client.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert (await client.head("/")).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".css", ".svg"))])
async def test_an_asset_has_the_same_rules_and_is_revalidated_cheaply(harness: Harness, name: str) -> None:
    client = await harness.open()
    answer = await client.get(f"/assets/{name}")
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    again = await client.get(f"/assets/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "../__init__.py", "%2e%2e/__init__.py", "..%2f__init__.py"])
async def test_only_assets_are_served(harness: Harness, path: str) -> None:
    client = await harness.open()
    answer = await client.get(f"/assets/{path}")
    assert answer.status_code == 404
    assert answer.json()["ok"] is False


def test_nothing_is_fetched_from_elsewhere_or_written_inline() -> None:
    """The page works without internet, and under its own rules."""
    for path in STATIC.iterdir():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}", path.read_text()))
        assert addresses <= {"http://www.w3.org"}, path.name
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
