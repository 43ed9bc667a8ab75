"""Parameters that pydantic reads, where the plugin brought it. The only module that knows pydantic's adapters."""

from __future__ import annotations

import sys
from typing import Any

from plugin_runtime.tools.hints import UnfitHint
from plugin_runtime.tools.plugin_errors import message_of
from plugin_runtime.tools.values import Unfit

REFS = "#/$defs/{model}"


class PydanticHint:
    """A hint that pydantic checks, and describes."""

    def __init__(self, hint: Any) -> None:
        """Raises UnfitHint."""
        pydantic: Any = sys.modules.get("pydantic")
        if not hasattr(pydantic, "TypeAdapter"):
            raise UnfitHint("it needs pydantic 2; add pydantic>=2 to requirements.txt, and import it in the plugin")
        try:
            self._adapter = pydantic.TypeAdapter(hint)
            self._adapter.rebuild(raise_errors=True)
        except Exception as error:
            raise UnfitHint(_first_line(error)) from error
        self._error = pydantic.ValidationError

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The schema, and the definitions that it refers to. Raises UnfitHint."""
        try:
            schema: dict[str, Any] = self._adapter.json_schema(ref_template=REFS)
        except Exception as error:
            raise UnfitHint(_first_line(error)) from error
        return schema, schema.pop("$defs", {})

    def read(self, value: Any, path: str) -> Any:
        """The argument. Raises Unfit, or what the author's validators raise."""
        try:
            return self._adapter.validate_python(value)
        except self._error as error:
            faults = error.errors(include_url=False, include_context=False)
            raise self._unfit(faults, path) from None

    @staticmethod
    def _unfit(faults: list[Any], path: str) -> Unfit:
        fault = faults[0]
        for step in fault["loc"]:
            path += f"[{step}]" if isinstance(step, int) else f".{step}"
        more = f" ({len(faults)} faults, this is the first)" if len(faults) > 1 else ""
        return Unfit(path, f"{fault['msg']}{more}", value=fault.get("input"))


def _first_line(error: Exception) -> str:
    return message_of(error).strip().partition("\n")[0]
