"""Fixtures shared by the suites."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.harness import Harness
from support.own_image import build_own_image
from support.waiting import PATIENCE

pytest_plugins = ["support.reliability", "support.side_by_side"]
collect_ignore = ["fixtures/foreign_project"]  # it has an environment of its own

# On a busy machine an example may take long; pytest's own time limit applies.
settings.register_profile("quick", deadline=None)
settings.load_profile("quick")

# A shell that starts the suite in the background ignores SIGINT, and the programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--proxy-patience",
        action="store_true",
        help="wait for as long as nginx does by default: two minutes and a half",
    )
    parser.addoption(
        "--all-candidates",
        action="store_true",
        help="update a plugin to each of the fault fixtures, not to one of each kind only: some minutes",
    )
    parser.addoption(
        "--through-front",
        action="store_true",
        help="have the clients of all in-memory orchestrators call a front over that one host",
    )
    parser.addoption(
        "--session-kills",
        type=int,
        default=3,
        help="kill so many test sessions of another project (project/packaging)",
    )
    parser.addoption(
        "--write-contract",
        action="store_true",
        help="record what the orchestrator answers for each reason code, instead of comparing it (engine/testing)",
    )


def pytest_configure(config: pytest.Config) -> None:
    Harness.through_front = config.getoption("--through-front")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests longer on a slow machine; leave out those of which a front is no part."""
    if Harness.through_front:
        for item in items:
            if item.get_closest_marker("one_host"):
                item.add_marker(pytest.mark.skip(reason="the front is no part of it"))
    if PATIENCE == 1:
        return
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else float(config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * PATIENCE), append=False)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """The whole orchestrator, not yet open: add plugins, then `await harness.open()`."""
    async with Harness(tmp_path) as harness:
        yield harness


@pytest.fixture(scope="session")
def own_image() -> str:
    """The name of the orchestrator's own image, built if it was out of date."""
    return build_own_image()
