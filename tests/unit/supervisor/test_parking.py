"""Parking: what is started uncalled."""

from typing import Any

import pytest

from orchestrator.loader.manifest import Manifest
from orchestrator.settings import Settings
from orchestrator.supervisor.parking import starts_uncalled

MINIMAL = {"name": "reader", "version": "1", "description": "Reads.", "entrypoint": "reader.plugin:Reader"}


@pytest.mark.parametrize(
    ("fields", "parked", "starts"),
    [
        ({}, False, True),
        ({"idle": {"after": "10m"}}, False, True),
        ({}, True, True),
        ({"idle": {"after": "10m"}}, True, False),
        ({"requires_gpu": True}, True, False),
        ({"requires_gpu": True, "idle": {"keep": True}}, True, True),
    ],
)
def test_what_may_be_parked_waits_for_a_call_where_the_operator_says_so(
    fields: dict[str, Any], parked: bool, starts: bool
) -> None:
    """Everything else starts with the orchestrator."""
    manifest = Manifest.model_validate({**MINIMAL, **fields})
    assert starts_uncalled(manifest, Settings(parked=parked)) is starts
