"""What goes on for a plugin is in its record, from its first line to its end, and in events where it is asked for."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from orchestrator.health.health_model import health_response
from orchestrator.health.listing import HealthListing
from orchestrator.lifecycle import PluginLifecycleState, ReasonCode
from orchestrator.registry import Activity, PluginRecord, PluginRegistry
from orchestrator.supervisor import activity as activity_module
from orchestrator.supervisor.activity import MAX_LINE, activity, shown_line

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BUILDING = "building its image"


@pytest.fixture
def registry() -> PluginRegistry:
    registry = PluginRegistry()
    registry.register(PluginRecord("reader", "1", "", PluginLifecycleState.LOADED, NOW))
    return registry


def shown(registry: PluginRegistry) -> Activity | None:
    record = registry.get("reader")
    assert record is not None
    return record.activity


async def test_it_is_shown_from_the_first_line_until_it_ends(registry: PluginRegistry) -> None:
    """Nothing before: what takes no time has no line. The beginning is the moment of that line."""
    async with activity(registry, "reader", BUILDING) as say:
        assert shown(registry) is None
        before = datetime.now(UTC)
        say("Step 1/9 : FROM base")
        during = shown(registry)
    assert during is not None
    assert (during.what, during.line) == (BUILDING, "Step 1/9 : FROM base")
    assert before <= during.since <= datetime.now(UTC)
    assert shown(registry) is None


async def test_it_ends_with_an_error_and_with_a_cancellation(registry: PluginRegistry) -> None:
    async def build(error: BaseException | None) -> None:
        async with activity(registry, "reader", BUILDING, done="built its image") as say:
            say("Step 1/9")
            if error is not None:
                raise error
            await asyncio.sleep(60)

    with pytest.raises(OSError, match="full"):
        await build(OSError("the disk is full"))
    assert shown(registry) is None
    building = asyncio.create_task(build(None))
    while shown(registry) is None:
        await asyncio.sleep(0)
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    assert shown(registry) is None
    assert [event.reason for event in registry.events()] == [BUILDING, BUILDING]


async def test_the_newest_line_is_written_now_and_then(
    registry: PluginRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand lines at once, from another thread, are one write; the last of them is not lost."""
    monkeypatch.setattr(activity_module, "_WRITE_INTERVAL", 0.05)
    written: list[str] = []
    monkeypatch.setattr(registry, "set_activity", lambda _, new: written.append(new.line))
    async with activity(registry, "reader", BUILDING) as say:
        thread = threading.Thread(target=lambda: [say(f"line {number}") for number in range(1000)])
        thread.start()
        thread.join()
        async with asyncio.timeout(10):
            while "line 999" not in written:
                await asyncio.sleep(0.01)
    assert written == ["line 0", "line 999"]


async def test_another_activity_is_not_ended_by_it(registry: PluginRegistry) -> None:
    async with activity(registry, "reader", BUILDING) as say:
        say("Step 1/9")
        registry.set_activity("reader", Activity("fetching its models", NOW, 0.0))
    remaining = shown(registry)
    assert remaining is not None
    assert remaining.what == "fetching its models"


async def test_a_new_instance_leaves_it(registry: PluginRegistry) -> None:
    async with activity(registry, "reader", BUILDING) as say:
        say("")
        registry.renew("reader")
        assert shown(registry) is not None


async def test_an_unknown_plugin_is_none_of_its_concern(registry: PluginRegistry) -> None:
    """A model may be fetched for a folder that no orchestrator has registered."""
    async with activity(registry, "nobody", "fetching its models") as say:
        say("1 of 2 GiB")
    assert registry.get("nobody") is None


async def test_events_report_its_beginning_and_how_long_it_took(registry: PluginRegistry) -> None:
    """They change no state and have no reason code."""
    async with activity(registry, "reader", BUILDING, done="built its image") as say:
        say("Step 1/9")
    begun, ended = registry.events()
    assert (begun.previous, begun.state, begun.reason_code, begun.reason) == ("LOADED", "LOADED", None, BUILDING)
    assert (ended.state, ended.reason) == ("LOADED", "built its image in 0 s")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  Collecting   torch\n", "Collecting torch"),
        ("\x1b[1;32mdone\x1b[0m \x1b]8;;http://x\x07link", "done link"),
        ("10 %\r20 %\r30 %\r", "30 %"),
        ("a\x00b\x07c\x9b1m", "a b c 1m"),
        ("Looking in indexes: https://ada:secret@pypi.corp/simple", "Looking in indexes: https://***@pypi.corp/simple"),
        ("x" * 5000, "x" * MAX_LINE),
        ("\x1b[2K", ""),
    ],
)
def test_a_line_is_shown_as_a_terminal_would_show_it(line: str, expected: str) -> None:
    """Without what controls a terminal, bounded, without credentials."""
    assert shown_line(line) == expected


RECORD = PluginRecord("reader", "1", "Reads.", PluginLifecycleState.LOADED, NOW)
BUILD = Activity(BUILDING, NOW, 1000.0, "Collecting torch")


def test_health_says_what_goes_on_and_for_how_long() -> None:
    """In the reason, as a field and among the checks, which would be empty else; nothing without an activity."""
    report = health_response(replace(RECORD, activity=BUILD), 1250.0)
    assert report.reason == "building its image for 4 min: Collecting torch"
    assert report.reason_code is None
    assert report.activity is not None
    assert report.activity.model_dump() == {"what": BUILDING, "since": NOW, "line": "Collecting torch"}
    assert [(check.name, check.ok, check.detail) for check in report.checks] == [("activity", True, report.reason)]
    quiet = health_response(RECORD, 1250.0)
    assert (quiet.reason, quiet.activity, quiet.checks) == (None, None, [])


def test_a_reason_stands_before_it() -> None:
    """A plugin whose model is missing says so while the model is fetched."""
    ended = replace(
        RECORD,
        state=PluginLifecycleState.UNAVAILABLE,
        reason_code=ReasonCode.MODEL_MISSING,
        reason="weights.pt is missing.",
        activity=Activity("fetching its models", NOW, 1000.0),
    )
    assert health_response(ended, 1008.9).reason == "weights.pt is missing. Now: fetching its models for 8 s"


def test_the_list_says_it_too_and_its_duration_grows() -> None:
    """Though the record stays the same object."""
    listing, record = HealthListing(), replace(RECORD, activity=BUILD)
    assert b"for 30 s: Collecting torch" in listing.encode([record], 1030.0)
    assert b"for 2 min: Collecting torch" in listing.encode([record], 1125.0)
    assert b'"activity":null' in listing.encode([RECORD], 1126.0)


async def test_what_several_instances_do_at_once_is_said_once(registry: PluginRegistry) -> None:
    """As replicas do that start together: one builds the image, all wait for it."""
    async with activity(registry, "reader", BUILDING, done="built its image") as first:
        first("Step 1/9")
        async with activity(registry, "reader", BUILDING, done="built its image") as second:
            second("")
    reasons = [event.reason for event in registry.events()]
    assert reasons == [BUILDING, "built its image in 0 s"]
