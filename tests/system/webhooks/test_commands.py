"""`orchestrator hooks` and the clients, over the whole orchestrator and a real receiver."""

import asyncio
import json

import pytest
from click.testing import Result
from support.webhook_receiver import WebhookReceiver
from system.webhooks.conftest import Hooked
from typer.testing import CliRunner

from orchestrator.cli import commands, console
from orchestrator.client import AsyncClient, Client, CommandRefused, NotFound


@pytest.fixture
async def opened(hooked: Hooked, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch) -> Hooked:
    """One run that was delivered."""
    hooked.hook("pager", receiver.url, "  events: [run.finished]\n  plugins: ['rea*']\n")
    hooked.add("reader", tools={"read": lambda: 1})
    await hooked.open()
    await hooked.settled("reader")
    await hooked.run("reader", "read")
    async with asyncio.timeout(10):
        while not await hooked.deliveries(state="delivered"):
            await asyncio.sleep(0.05)
    monkeypatch.setenv("ORCHESTRATOR_URL", str(hooked.client.base_url))
    for output in (console.console, console.errors):
        monkeypatch.setattr(output, "width", 200)
    return hooked


async def command(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, commands.command_line(arguments[0]), list(arguments))


async def test_they_list_repeat_and_test(opened: Hooked, receiver: WebhookReceiver) -> None:
    listed = await command("hooks", "list")
    row = listed.output.splitlines()[1].split()
    assert row == ["pager", receiver.url, "run.finished", "rea*", "0", "1", "0"], listed.output
    (delivery,) = json.loads((await command("hooks", "deliveries", "pager", "--json")).output)
    shown = await command("hooks", "deliveries", "pager", "--state", "delivered")
    assert delivery["delivery_id"] in shown.output and "204" in shown.output
    repeated = await command("hooks", "repeat", "pager", delivery["delivery_id"])
    assert repeated.exit_code == 0 and "pending" in repeated.output
    await asyncio.to_thread(receiver.wait_for_attempts, 2)
    tested = await command("hooks", "test", "pager")
    assert tested.exit_code == 0 and "pager answered 204" in tested.output
    assert receiver.attempts[-1].content["type"] == "webhook.test"


async def test_a_failed_test_says_why(opened: Hooked, receiver: WebhookReceiver) -> None:
    receiver.answers[None] = [500]
    failed = await command("hooks", "test", "pager")
    assert failed.exit_code == 1 and "pager: It was answered with status 500." in failed.output
    unknown = await command("hooks", "test", "pgaer")
    assert unknown.exit_code == 1 and "No webhook named 'pgaer'" in unknown.output


async def test_a_rest_and_an_error_are_shown(opened: Hooked, receiver: WebhookReceiver) -> None:
    receiver.answers[None] = [410]
    await opened.run("reader", "read")
    await asyncio.to_thread(receiver.wait_for_attempts, 2)
    async with asyncio.timeout(10):
        while (await opened.deliveries(state="pending"))[0]["attempts"] == 0:
            await asyncio.sleep(0.05)
    assert "orchestrator hooks test pager" in (await command("hooks", "list")).output
    assert "It was answered with status 410." in (await command("hooks", "deliveries", "pager")).output


async def test_without_any_the_list_says_so(harness, monkeypatch) -> None:
    client = await harness.open()
    monkeypatch.setenv("ORCHESTRATOR_URL", str(client.base_url))
    assert "There are no webhooks" in (await command("hooks", "list")).output


async def test_both_clients(opened: Hooked) -> None:
    def blocking() -> str:
        with Client(str(opened.client.base_url)) as api:
            assert [each["name"] for each in api.webhooks()] == ["pager"]
            (delivery,) = api.webhook_deliveries("pager", state="delivered", limit=1)
            assert api.webhook_deliveries("pager", before=delivery["id"]) == []
            assert api.test_webhook("pager")["ok"] is True
            return api.repeat_delivery("pager", delivery["delivery_id"])["state"]

    assert await asyncio.to_thread(blocking) == "pending"
    async with AsyncClient(str(opened.client.base_url)) as api:
        assert (await api.webhooks())[0]["events"] == ["run.finished"]
        with pytest.raises(NotFound, match="dlv_none"):
            await api.repeat_delivery("pager", "dlv_none")
        assert (await api.test_webhook("pager"))["status"] == 204
        pending = [each for each in await api.webhook_deliveries("pager") if each["state"] == "pending"]
        for each in pending:
            with pytest.raises(CommandRefused):
                await api.repeat_delivery("pager", each["delivery_id"])
