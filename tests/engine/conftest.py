"""Tests with an engine of their own need root."""

import os

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("own_engine") is not None and os.geteuid() != 0:
        pytest.skip("a Docker Engine of its own needs root")
