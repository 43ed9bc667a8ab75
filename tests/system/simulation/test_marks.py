"""Nobody takes what is simulated for real, and nobody can have it in a deployment."""

import re

import pytest
from support.checkout import PROJECT
from support.harness import Harness

from orchestrator.access.principal import Right
from orchestrator.api import route_table


async def test_a_simulated_orchestrator_says_so_everywhere(simulated) -> None:
    """In /readyz, in each plugin's health, and in the headers of every answer, errors included."""
    simulated.add()
    client = await simulated.open()
    assert (await client.get("/readyz")).json()["simulated"] is True
    assert [plugin["simulated"] for plugin in (await client.get("/v1/plugins")).json()] == [False]
    assert (await client.get("/v1/plugins/detector/health")).json()["simulated"] is False
    for path in ("/healthz", "/v1/plugins/nobody/health", "/metrics", "/"):
        assert (await client.get(path)).headers["X-Simulated"] == "true", path
    head = await client.head("/v1/plugins")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_command_answers_with_the_mark_too(simulated) -> None:
    simulated.add()
    client = await simulated.open()
    await simulated.arm("CRASHED")
    assert (await client.post("/v1/plugins/detector/stop")).json()["simulated"] is True


async def test_the_real_one_has_neither_marks_nor_faults(harness: Harness) -> None:
    harness.add("detector")
    client = await harness.open()
    assert (await client.post("/testing/faults", json={"plugin": "detector", "code": "CRASHED"})).status_code == 404
    answer = await client.get("/readyz")
    assert "simulated" not in answer.json() and "X-Simulated" not in answer.headers
    assert "simulated" not in (await client.get("/v1/plugins")).json()[0]


@pytest.mark.parametrize(("method", "right"), [("POST", Right.OPERATE), ("DELETE", Right.OPERATE), ("GET", Right.READ)])
def test_faults_need_a_key_that_may_operate(method: str, right: Right) -> None:
    """The port of a test's orchestrator is published."""
    route, _ = route_table.find("/testing/faults")
    assert not route.open and route.needs(method) is right


def test_nothing_of_the_orchestrator_imports_the_simulation() -> None:
    """But the tests' side, and what makes its image: import-linter holds the layers, and this the names."""
    mentions = {
        path.relative_to(PROJECT / "orchestrator").parts[0]
        for path in (PROJECT / "orchestrator").rglob("*.py")
        if re.search(r"orchestrator\.simulation\b", path.read_text())
    }
    assert mentions <= {"simulation", "testing", "loader", "app.py"}
