"""One explanation."""

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.lifecycle.states import PluginLifecycleState

Kind = Literal["reason code", "error type"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`status`: the HTTP status of the run that meets it. `page`: where to read on, from the project's top."""

    name: str
    kind: Kind
    meaning: str
    remedy: str
    test: str
    """How a test produces it: a line of Python, or words where no line does. Empty where nothing does."""
    happens: str = ""
    """What really happens then."""
    state: PluginLifecycleState | None = None
    """The plugin's, of a reason code."""
    status: int | None = None
    page: str = ""

    def report(self) -> dict[str, Any]:
        """As `orchestrator explain --json` prints it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "status": self.status,
            "meaning": self.meaning,
            "what_to_do": self.remedy,
            "in_a_test": self.test,
            "what_happens_then": self.happens,
            "read_on": self.page,
        }
