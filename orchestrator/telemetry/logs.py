"""Logging as text or JSON; records made within a run carry its run id and plugin."""

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Final, Literal, Self, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from orchestrator.sandbox.call import ToolCall
from orchestrator.tools.run_observer import RunWatch

LogFormat = Literal["text", "json"]

_TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s%(run)s: %(message)s"
_FIELDS: Final = ("time", "levelname", "name", "message")
_NAMES: Final = {"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"}
# `color_message` is uvicorn's second message, for terminals; `run` is for the text form.
_OMITTED: Final = (*RESERVED_ATTRS, "color_message", "run")
_NO_RUN: Final[Mapping[str, str]] = MappingProxyType({})
_run: ContextVar[Mapping[str, str]] = ContextVar("run", default=_NO_RUN)


def configure(level: str, form: LogFormat, stream: TextIO | None = None) -> None:
    """Send everything that the process logs, including the server and libraries, to `stream` (stderr)."""
    logging.basicConfig(level=level.upper(), handlers=[handler(form, stream or sys.stderr)], force=True)
    logging.captureWarnings(capture=True)


def handler(form: LogFormat, stream: TextIO) -> logging.Handler:
    """A handler that writes to `stream`. A JSON record is one line with `time` (ISO 8601), `level`, `logger` and
    `message`; within a run also `run_id`, `plugin` and, if traced, `trace_id`; `exception` if there was one.
    """
    result = logging.StreamHandler(stream)
    # On the handler: a logger's filter does not see the records of the loggers below it.
    result.addFilter(_add_run)
    result.setFormatter(
        JsonFormatter(
            _FIELDS,
            timestamp="time",
            rename_fields=_NAMES,
            reserved_attrs=_OMITTED,
        )
        if form == "json"
        else logging.Formatter(_TEXT)
    )
    return result


class within_run(RunWatch):  # noqa: N801 - used like a function
    """A `RunObserver` that adds the run to every record logged while it is entered."""

    def __init__(self, plugin: str, call: ToolCall) -> None:
        self._fields = {"plugin": plugin, "run_id": call.run_id}

    def __enter__(self) -> Self:
        self._token = _run.set(self._fields)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run.reset(self._token)

    def started(self, call: ToolCall) -> ToolCall:
        if parent := call.trace.get("traceparent"):
            self._fields["trace_id"] = parent.split("-")[1]
        return call


def _add_run(record: logging.LogRecord) -> bool:
    """Filter: add the run's fields to the record, except those that it already has."""
    for name, value in _run.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    run_id = getattr(record, "run_id", None)
    record.run = f" [run {run_id}]" if run_id else ""
    return True
