"""The log: text for people or JSON for programs, each record of a run with its run id and plugin."""

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
_LEFT_OUT: Final = (*RESERVED_ATTRS, "color_message", "run")
"""uvicorn writes a second message for terminals; `run` is for the text form."""
_NO_RUN: Final[Mapping[str, str]] = MappingProxyType({})
_run: ContextVar[Mapping[str, str]] = ContextVar("run", default=_NO_RUN)


def configure(level: str, form: LogFormat, stream: TextIO | None = None) -> None:
    """Have all that the process logs, the server's and other libraries' included, go to `stream` (stderr) that way."""
    logging.basicConfig(level=level.upper(), handlers=[handler(form, stream or sys.stderr)], force=True)
    logging.captureWarnings(capture=True)


def handler(form: LogFormat, stream: TextIO) -> logging.Handler:
    """One that writes `form` to `stream`. A JSON record is one line with `time` (ISO 8601), `level`, `logger`,
    `message`; in a run `run_id` and `plugin`, and `trace_id` where it is traced; `exception` where there was one.
    """
    made = logging.StreamHandler(stream)
    made.addFilter(_with_run)
    made.setFormatter(
        JsonFormatter(
            _FIELDS,
            timestamp="time",
            rename_fields=_NAMES,
            reserved_attrs=_LEFT_OUT,
        )
        if form == "json"
        else logging.Formatter(_TEXT)
    )
    return made


class within_run(RunWatch):  # noqa: N801 - reads as what it is where it is used
    """A `RunObserver`: meanwhile, what is logged is told to belong to the run."""

    def __init__(self, plugin: str, call: ToolCall) -> None:
        self._told = {"plugin": plugin, "run_id": call.run_id}

    def __enter__(self) -> Self:
        self._token = _run.set(self._told)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run.reset(self._token)

    def started(self, call: ToolCall) -> ToolCall:
        if parent := call.trace.get("traceparent"):
            self._told["trace_id"] = parent.split("-")[1]
        return call


def _with_run(record: logging.LogRecord) -> bool:
    """Put the run into the record. What the record itself says goes first."""
    for name, value in _run.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    run_id = getattr(record, "run_id", None)
    record.run = f" [run {run_id}]" if run_id else ""
    return True
