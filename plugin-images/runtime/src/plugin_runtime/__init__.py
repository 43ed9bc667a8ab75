"""What a plugin's author imports: `tool`, `InvalidInput`, `Progress`, `cancelled`, `models`, `model_path`,
`secret`, `trace_context`.

Importing this package starts nothing and loads no third-party module: the supervisor, the health check and the
orchestrator's host side all import it.
"""

from plugin_runtime.authoring import InvalidInput, Progress, model_path, models, secret, tool
from plugin_runtime.cancellation import cancelled
from plugin_runtime.tracing import trace_context

__all__ = ["InvalidInput", "Progress", "cancelled", "model_path", "models", "secret", "tool", "trace_context"]

__version__ = "0.1.0"
"""Of the runtime and of the orchestrator, which brings it."""
