"""What a plugin's author imports: `tool`, `InvalidInput`, `Progress`, `models`, `model_path`.

Importing this package starts nothing and loads no third-party module: the supervisor, the health check and the
orchestrator's host side all import it.
"""

from plugin_runtime.authoring import InvalidInput, Progress, model_path, models, tool

__all__ = ["InvalidInput", "Progress", "model_path", "models", "tool"]
