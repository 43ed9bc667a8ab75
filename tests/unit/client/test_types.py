"""The client's types have the fields of the API's description."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

from orchestrator import client
from orchestrator.app import create_app
from orchestrator.client import AsyncClient, Client, models
from orchestrator.settings import Settings

DESCRIBED = create_app(Settings()).openapi()["components"]["schemas"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (models.Plugin, "PluginHealthResponse"),
        (models.PluginDetail, "PluginDetailResponse"),
        (models.Check, "CheckReport"),
        (models.Run, "RunResponse"),
    ],
)
def test_the_fields_are_the_same(ours, theirs):
    assert ours.__required_keys__ == set(DESCRIBED[theirs]["properties"])


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    def methods(kind):
        named = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(call).parameters) for name, call in named if not name.startswith("_")}

    renamed = {"aclose": "close"}
    assert {renamed.get(name, name): call for name, call in methods(AsyncClient).items()} == methods(Client)


def test_it_brings_nothing_of_the_orchestrator_with_it():
    """It can be imported where no container engine, web framework or plugin runtime is installed."""
    program = "import sys, orchestrator.client; print([m for m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    modules = ast.literal_eval(printed)
    ours = {name for name in modules if name.startswith("orchestrator.")}
    assert ours == {name for name in ours if name.startswith("orchestrator.client")}
    assert not {"fastapi", "docker", "aiohttp", "pydantic", "plugin_runtime"} & set(modules)
    assert client.__all__ == sorted(client.__all__)
