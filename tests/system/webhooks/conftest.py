"""A receiver, and the whole orchestrator with webhooks that are quick to try again."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from support.webhook_receiver import SECRET, WebhookReceiver

from orchestrator import app
from orchestrator.webhooks.schedule import Policy
from orchestrator.webhooks.service import WebhookService

POLICY = Policy(time_limit=1.0, first_pause=0.1, longest_pause=0.4, longest_retry_after=2.0)
"""Everything quicker than by default."""


class Hooked(Harness):
    """A harness with webhooks."""

    def hook(self, name: str, url: str, more: str = "") -> None:
        file = self.settings.webhooks
        assert file is not None
        with file.open("a") as text:
            text.write(f"- name: {name}\n  url: {url}\n  secret_file: secret\n{more}")

    async def deliveries(self, webhook: str = "pager", **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/v1/webhooks/{webhook}/deliveries", params=query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as server:
        yield server
    assert server.forged == []


@pytest.fixture
async def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hooked]:
    monkeypatch.setattr(app, "WebhookService", partial(WebhookService, policy=POLICY))
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "harness").mkdir()
    async with Hooked(tmp_path / "harness", webhooks=tmp_path / "webhooks.yaml") as harness:
        yield harness
