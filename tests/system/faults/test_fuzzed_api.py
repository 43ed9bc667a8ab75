"""The HTTP API against all that its own description allows and forbids: no 5xx but the contract's."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from support.harness import Harness
from support.reliability import ReliabilityTable

pytestmark = pytest.mark.slow

IN_THE_CONTRACT = {502, 503, 504}
EXAMPLES = 15  # for each operation, of valid and of invalid requests


async def test_no_request_causes_a_5xx_outside_the_contract(harness: Harness, reliability: ReliabilityTable) -> None:
    """Schemathesis over the description of the whole application, with a working, a broken and a missing plugin."""
    harness.add("reader", tools={"read": lambda text="": text, "fail": _fail})
    harness.add("missing", image="not/there")
    harness.write_raw("broken", "version: [")
    client = await harness.open()
    await harness.settled("reader")
    answers: Counter[int] = Counter()
    await asyncio.to_thread(_request_all, str(client.base_url), answers)
    wrong = {status: number for status, number in answers.items() if status >= 500 and status not in IN_THE_CONTRACT}
    assert wrong == {}
    assert (await client.get("/v1/plugins")).status_code == 200
    figure = "fuzzed requests by the OpenAPI description: no 5xx outside the contract"
    reliability.count(figure, right=answers.total(), of=answers.total())


def _fail() -> None:
    raise RuntimeError("no luck")


def _request_all(base_url: str, answers: Counter[int]) -> None:
    with httpx.Client(base_url=base_url, timeout=20, trust_env=False) as client:
        document = client.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                _request(client, operation, mode, answers)


def _request(
    client: httpx.Client, operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, answers: Counter[int]
) -> None:  # type: ignore[type-arg]
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        request = case.as_transport_kwargs(base_url=str(client.base_url))
        status = _answered(client, request)
        answers[status] += 1
        assert status < 500 or status in IN_THE_CONTRACT, f"{status} for {request}"

    with suppress(Unsatisfiable):  # no such request exists: an operation without parameters has no invalid one
        check()


def _answered(client: httpx.Client, request: dict[str, Any]) -> int:
    """The status; the body is not read, since it may be a stream without end."""
    names = ("method", "url", "headers", "params", "json", "data", "content", "cookies")
    given_ = {name: value for name, value in request.items() if name in names and value is not None}
    if isinstance(given_.get("data"), bytes | str):
        given_["content"] = given_.pop("data")
    try:
        with client.stream(**given_) as answer:
            return answer.status_code
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError, TypeError):
        return 0  # HTTP cannot express this request
