"""Logging: JSON that programs can read, records within a run carry its run id and plugin, the server's own too."""

import io
import json
import logging
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from support.live import live_orchestrator

from orchestrator.sandbox.call import ToolCall
from orchestrator.telemetry import logs

CALL = ToolCall("read", "run-1", "application/json", b"{}")


@pytest.fixture(params=["json"])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The output of all loggers, in the form that the test names."""
    written = io.StringIO()
    handler = logs.handler(request.param, written)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield written
    finally:
        root.removeHandler(handler)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_its_fields(stream: io.StringIO) -> None:
    """Whatever is in the message; extra fields of the record are in it."""
    logging.getLogger("orchestrator.test").warning("first\nsecond \ud800 %s", "ä", extra={"plugin": "ocr", "port": 1})
    (record,) = records(stream)
    assert datetime.fromisoformat(record.pop("time")).utcoffset() == timedelta(0)
    assert record == {
        "level": "WARNING",
        "logger": "orchestrator.test",
        "message": "first\nsecond \ud800 ä",
        "plugin": "ocr",
        "port": 1,
    }


def test_an_exception_is_in_its_record(stream: io.StringIO) -> None:
    try:
        int("what went wrong")
    except ValueError:
        logging.getLogger("orchestrator.test").exception("it failed")
    (record,) = records(stream)
    assert record["message"] == "it failed"
    assert record["exception"].startswith("Traceback") and record["exception"].endswith("'what went wrong'")


def test_what_is_logged_within_a_run_belongs_to_it(stream: io.StringIO) -> None:
    """By any logger, and no longer once the run is over. A record's own fields win."""
    log = logging.getLogger("some.library")
    with logs.within_run("ocr", CALL):
        log.warning("within")
        log.warning("of another", extra={"plugin": "tracker"})
    log.warning("after")
    within, other, after = records(stream)
    assert (within["plugin"], within["run_id"]) == ("ocr", "run-1")
    assert (other["plugin"], other["run_id"]) == ("tracker", "run-1")
    assert not {"plugin", "run_id"} & set(after)


@pytest.mark.parametrize("stream", ["text"], indirect=True)
def test_text_names_the_run_too(stream: io.StringIO) -> None:
    log = logging.getLogger("orchestrator.test")
    with logs.within_run("ocr", CALL):
        log.warning("within")
    log.warning("after")
    within, after = stream.getvalue().splitlines()
    assert within.endswith("WARNING orchestrator.test [run run-1]: within")
    assert after.endswith("WARNING orchestrator.test: after")


async def test_a_tools_failure_is_logged_with_its_run(harness: Harness, stream: io.StringIO) -> None:
    """As its caller sees it."""

    def fail() -> None:
        raise ValueError("no")

    harness.add("reader", tools={"fail": fail}, failure_policy="tolerant")
    await harness.open()
    await harness.settled("reader")
    answer = await harness.run("reader", "fail")
    raised = [record for record in records(stream) if "ValueError: no" in record["message"]]
    assert [(record["plugin"], record["run_id"]) for record in raised] == [("reader", answer.headers["X-Run-Id"])]


@pytest.mark.slow
def test_everything_that_the_process_writes_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the server's first line to its last."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    with live_orchestrator([tmp_path], engine=False, log_format="json") as live:
        live.client.get("/v1/plugins")
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(20) == 0
        written = [json.loads(line) for line in live.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(record) for record in written))
    assert not any("color_message" in record for record in written)
    assert {"uvicorn.error", "orchestrator.supervisor.fleet"} <= {record["logger"] for record in written}


@pytest.mark.slow
def test_an_unknown_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    with (
        pytest.raises(AssertionError, match=r"ORCHESTRATOR_LOG_FORMAT.*'text' or 'json'"),
        live_orchestrator([tmp_path], engine=False, log_format="xml"),
    ):
        pass
